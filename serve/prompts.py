"""Chat messages as token ids in which only the template's own control tokens are special.

A text in a message may spell `<|im_end|>` or the harmfulness tag; what reaches the model is then the
plain text. Works with any fast tokenizer, whether or not it splits special tokens by itself.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MARK = "\ufdd0"  # a Unicode noncharacter: no text has a use for it


class ChatEncoder:
    """Renders a conversation and encodes it; holds copies of `tokenizer`, which stays as it is."""

    def __init__(self, tokenizer: Any, tag_id: int | None) -> None:
        # Two backends that are never switched, so that threads may share them.
        self._control = copy.deepcopy(tokenizer.backend_tokenizer)
        self._control.encode_special_tokens = False
        self._control.no_truncation()
        self._plain = copy.deepcopy(self._control)
        self._plain.encode_special_tokens = True
        added = tokenizer.added_tokens_decoder
        self.tag_id = tag_id
        self.special: set[int] = {i for i, token in added.items() if token.special}
        if tag_id is not None:
            self.special.add(tag_id)
        self._spellings = [str(token) for i, token in added.items() if i in self.special]

    def encode(self, render: Callable[..., str], conversation: list[Any], **variables: Any) -> list[int]:
        """Ids of `render(conversation, **variables)`, whose result is the chat template's text.

        Every string in `conversation` and `variables` is plain text, but for roles, which must be
        known ones: templates build control tokens of them. Raises ValueError for another role.
        """
        for message in conversation:
            if message.get("role") not in ROLES:
                raise ValueError(f"unknown role {message.get('role')!r}: use one of {', '.join(ROLES)}.")
        template = variables.pop("chat_template", None)  # the server's own, never a request's
        messages = [
            {key: value if key == "role" else self._neutral(value) for key, value in message.items()}
            for message in conversation
        ]
        safe = {key: self._neutral(value) for key, value in variables.items()}
        return self._ids(render(messages, chat_template=template, **safe))

    def _ids(self, text: str) -> list[int]:
        whole = self._control.encode(text, add_special_tokens=False)
        if _MARK not in text and self.tag_id not in whole.ids:
            return list(whole.ids)
        ids: list[int] = []
        start = 0
        spans = [
            (i, span)
            for i, span in zip(whole.ids, whole.offsets, strict=True)
            if i in self.special and i != self.tag_id  # no template has a use for the tag
        ]
        for token, (left, right) in [*spans, (None, (len(text), len(text)))]:
            between = text[start:left].replace(_MARK, "")
            ids += self._plain.encode(between, add_special_tokens=False).ids if between else []
            ids += [] if token is None else [token]
            start = right
        return ids

    def _neutral(self, value: Any) -> Any:
        """`value` with every string in it broken up where it would become a special token."""
        if isinstance(value, str):
            return self._broken(value, self._open_end(value))
        if isinstance(value, Mapping):
            return {self._broken(str(key)): self._neutral(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._neutral(item) for item in value]
        return value

    def _open_end(self, text: str) -> set[int]:
        """Where to break a spelling that begins at the end of `text`: a template might complete it."""
        bare = text.rstrip()
        return {
            len(bare) - n + 1
            for spelling in self._spellings
            for n in range(1, len(spelling))
            if bare.endswith(spelling[:n])
        }

    def _broken(self, text: str, cuts: set[int] | frozenset[int] = frozenset()) -> str:
        for _ in range(4):  # breaking one spelling may bare another inside it
            found = self._control.encode(text, add_special_tokens=False)
            inside = {
                left + 1
                for i, (left, right) in zip(found.ids, found.offsets, strict=True)
                if i in self.special and right > left
            }
            edges = [0, *sorted(inside | cuts), len(text)]
            if len(edges) == 2:
                return text
            text = _MARK.join(text[a:b] for a, b in itertools.pairwise(edges))
            cuts = frozenset()
        raise ValueError("a text in the request spells special tokens in a way that cannot be taken apart.")
