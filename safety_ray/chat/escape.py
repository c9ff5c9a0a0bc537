"""Escape text so that no tokenizer makes a control token of it while a chat template renders it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

BREAK = "\ufdd0"
"""A Unicode noncharacter, inserted into text that spells a control token"""
RESERVED = "\ufdd0\ufdd1\ufdd2\ufdd3"
"""Noncharacters that this package inserts before rendering and removes afterwards (see also replies.py)"""
_REMOVE_RESERVED = dict.fromkeys(map(ord, RESERVED))
_MAX_PASSES = 4


class Escaper:
    """Inserts BREAK into strings that `tokenizer` would encode as a `forbidden` token, ids and spellings."""

    def __init__(self, tokenizer: Tokenizer, forbidden: Mapping[int, str]) -> None:
        self._tokenizer, self._forbidden = tokenizer, forbidden
        self._beginnings = {text[:length] for text in forbidden.values() for length in range(1, len(text))}
        self._longest = max(map(len, self._beginnings), default=0)

    def escape(self, value: Any) -> Any:
        """Return `value` with every string in it escaped, in nested lists and mappings as well.

        Raises ValueError if a string cannot be escaped.
        """
        if isinstance(value, str):
            text = value.translate(_REMOVE_RESERVED)
            return self._insert_breaks(text, self._unfinished_spellings(text))
        if isinstance(value, Mapping):
            return {self._escape_key(key): self.escape(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.escape(item) for item in value]
        return value

    def _escape_key(self, key: Any) -> str:
        return self._insert_breaks(str(key).translate(_REMOVE_RESERVED), set())

    def _unfinished_spellings(self, text: str) -> set[int]:
        """Positions to break a spelling that starts at the end of `text`; a template might complete it."""
        stripped = text.rstrip()
        lengths = range(1, min(self._longest, len(stripped)) + 1)
        return {len(stripped) - length + 1 for length in lengths if stripped[-length:] in self._beginnings}

    def _insert_breaks(self, text: str, positions: set[int]) -> str:
        for _ in range(_MAX_PASSES):  # breaking one spelling may expose another one inside it
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            spelled = {
                left + 1
                for token, (left, right) in zip(encoding.ids, encoding.offsets, strict=True)
                if token in self._forbidden and right > left
            }
            edges = [0, *sorted(spelled | positions), len(text)]
            if len(edges) == 2:
                return text
            text = BREAK.join(text[left:right] for left, right in itertools.pairwise(edges))
            positions = set()
        raise ValueError("a message contains nested spellings of control tokens that cannot be escaped.")
