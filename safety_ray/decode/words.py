"""Find the tokens that begin a word: the tag stands before words, so P(tag) inside a word says little.

Words are maximal runs of non-whitespace, as in the placement of the tag (safety_ray/core/tag_placement.py).
Whitespace beyond ASCII counts as a letter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

_BEGINS, _ENDS_IN_SPACE, _BLANK = 1, 2, 4
_ASCII_SPACES = [ord(character) for character in " \t\n\v\f\r\x1c\x1d\x1e\x1f"]
# In the names of byte-level tokens U+0100 + b represents the byte b; SentencePiece has U+2581 for a space.
_SPACES = frozenset([*_ASCII_SPACES, *(0x100 + code for code in _ASCII_SPACES), 0x2581])


@dataclass(frozen=True, slots=True)
class WordStarts:
    """A table of a vocabulary; the default is an empty one, in which no token begins a word."""

    flags: bytes = field(default=b"", repr=False)

    def begins_word(self, previous: int, token: int) -> bool:
        """Return whether `token`, right after the token `previous`, has the first character of a word."""
        flags = self._flags(token)
        if self._flags(previous) & _ENDS_IN_SPACE:
            return not flags & _BLANK
        return bool(flags & _BEGINS)

    def _flags(self, token: int) -> int:
        return self.flags[token] if token < len(self.flags) else 0  # a model may have more tokens than names


def word_starts(tokenizer: Any) -> WordStarts:
    """Return the table of a tokenizer of transformers, byte-level BPE or SentencePiece."""
    names = tokenizer.get_vocab()
    flags = bytearray(max(names.values(), default=-1) + 1)
    # SentencePiece has a token for each byte, in case that a character has none: `<0x0A>` is a line break.
    of_bytes = {f"<0x{byte:02X}>": chr(byte) for byte in range(0x100)}
    if not of_bytes.keys() <= names.keys():
        of_bytes = {}
    for name, token in names.items():
        name = of_bytes.get(name, name)
        spaces = [ord(character) in _SPACES for character in name]
        if any(before and not after for before, after in pairwise(spaces)):
            flags[token] |= _BEGINS
        if spaces and spaces[-1]:
            flags[token] |= _ENDS_IN_SPACE
        if all(spaces):
            flags[token] |= _BLANK
    return WordStarts(bytes(flags))
