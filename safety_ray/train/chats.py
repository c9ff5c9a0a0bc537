"""A chat as token ids: which they are, and which of them are learned.

Only what the assistant says is learned, with the token that ends its turn. What a message says never
becomes a special token, whatever it spells. A share of the completions of unsafe rows carries
harmfulness tags, so that the tag keeps its meaning through finetuning (paper, section 4).
"""

from __future__ import annotations

import bisect
import copy
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safety_ray.core import records, tag

ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_HOLE = re.compile("\ufdd0(\\d+)\ufdd1")  # noncharacters: stands for a content while the template is rendered
_WORD = re.compile(r"\S+")


class Unusable(ValueError):
    """Why a row cannot be learned from."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Token ids, whether each is learned, and whether tags were put in."""

    ids: list[int]
    learn: list[bool]
    tagged: bool


def make_chatty(tokenizer: Any) -> None:
    """Give `tokenizer` a chat template and its two marks, in place, where it has none.

    A turn then ends with the end mark, and control tokens in a rendered chat are read as such: that
    is what servers of chat models take for granted.
    """
    if not tokenizer.chat_template:
        marks = {"additional_special_tokens": [tag.CHAT_START, tag.CHAT_END]}
        tokenizer.add_special_tokens(marks, replace_extra_special_tokens=False)
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.eos_token = tag.CHAT_END
    tokenizer.split_special_tokens = False


class ChatEncoder:
    """Encodes chats with a tokenizer that has a chat template.

    `tag_id` is needed where `tagged_share` is above 0: of the completions of rows with `unsafe`, this
    share gets a tag before each word but the first with probability `tag_rate`.
    """

    def __init__(
        self, tokenizer: Any, *, seed: int, tag_id: int | None, tagged_share: float, tag_rate: float
    ) -> None:
        self.tokenizer, self.seed = tokenizer, seed
        self.tag_id, self.tagged_share, self.tag_rate = tag_id, tagged_share, tag_rate
        self._control = copy.deepcopy(tokenizer.backend_tokenizer)
        self._control.encode_special_tokens = False
        self._control.no_truncation()
        self._control.no_padding()
        self._plain = copy.deepcopy(self._control)
        self._plain.encode_special_tokens = True
        self._special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}

    def encode(self, name: str, row: dict[str, Any]) -> Chat:
        """The chat of `row`, {messages: [{role, content}], unsafe?} or {question, answer}.

        `name` is what chance depends on.
        Raises Unusable for a row without messages, of another form, or with nothing to learn.
        """
        messages = checked(row)
        tagged = (
            self.tag_id is not None
            and row.get("unsafe") is True
            and records.stable_hash(self.seed, "tagged", name) < self.tagged_share * 2**64
        )
        ids: list[int] = []
        learn: list[bool] = []
        for number, text in self._pieces(messages):
            if isinstance(text, int):
                new = [text]
            else:
                found = self._plain.encode(text, add_special_tokens=False)
                new = list(found.ids)
                if tagged and number is not None:
                    chance = random.Random(records.stable_hash(self.seed, "tags", name, number))
                    for at in reversed(self._tag_places(text, found.offsets, chance)):
                        new.insert(at, self.tag_id or 0)
            ids += new
            learn += [number is not None] * len(new)
        if not any(learn):
            raise Unusable("the assistant says nothing")
        return Chat(ids, learn, tagged and self.tag_id in ids)

    def _pieces(self, messages: Sequence[dict[str, str]]) -> list[tuple[int | None, str | int]]:
        """The rendered chat as texts and special ids; learned ones with the number of their message.

        Texts that are not learned and stand beside each other are one piece, as they are when the
        rendered chat is encoded as a whole.
        """
        holes = [
            {"role": message["role"], "content": f"\ufdd0{n}\ufdd1"} for n, message in enumerate(messages)
        ]
        try:
            rendered = self.tokenizer.apply_chat_template(holes, tokenize=False)
        except Exception as error:  # whatever a template raises
            raise Unusable(f"the chat template refuses it: {error}") from error
        pieces: list[tuple[int | None, str | int]] = []
        ends: int | None = None  # the assistant's message whose end is still to come
        for n, part in enumerate(_HOLE.split(rendered)):
            if n % 2:  # what the hole stands for
                said = messages[int(part)]
                ends = int(part) if said["role"] == "assistant" else None
                _append(pieces, ends, said["content"])
                continue
            at = 0
            found = self._control.encode(part, add_special_tokens=False)
            for token, (left, right) in zip(found.ids, found.offsets, strict=True):
                if token in self._special:
                    _append(pieces, ends, part[at:left])
                    pieces.append((ends, token))
                    at, ends = right, None
            _append(pieces, ends if at == 0 else None, part[at:])
        return pieces

    def _tag_places(self, text: str, offsets: list[tuple[int, int]], chance: random.Random) -> list[int]:
        """Tokens to put a tag before: those that hold the first character of a word that was drawn."""
        ends = [end for _, end in offsets]
        starts = [bisect.bisect_right(ends, word.start()) for word in _WORD.finditer(text)]
        drawn = {start for start in starts[1:] if chance.random() < self.tag_rate}
        return sorted(start for start in drawn if start > starts[0])


def checked(row: dict[str, Any]) -> list[dict[str, str]]:
    """The messages of a row; Unusable, with the reason, where they have another form."""
    messages = row.get("messages")
    if messages is None and {"question", "answer"} <= row.keys():  # as GSM8K has them
        messages = [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
    if not isinstance(messages, list) or not messages:
        raise Unusable("no messages")
    for n, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise Unusable(f"message {n} has no content that is text")
        if message.get("role") not in ROLES:
            raise Unusable(f"message {n} has the unknown role {message.get('role')!r}")
        if message["role"] == "assistant" and not message["content"].strip():
            raise Unusable(f"message {n}, of the assistant, is empty")
        if _HOLE.search(message["content"]):
            raise Unusable(f"message {n} holds characters that are none")
    return messages


def _append(pieces: list[tuple[int | None, str | int]], number: int | None, text: str) -> None:
    if not text:
        return
    if pieces and pieces[-1][0] is None and number is None and isinstance(pieces[-1][1], str):
        pieces[-1] = (None, pieces[-1][1] + text)
    else:
        pieces.append((number, text))
