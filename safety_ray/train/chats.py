"""Chats as training rows: which tokens are learned, and where harmfulness tags are inserted.

Only replies of the assistant are learned, with the token that ends each turn. A share of the completions of
unsafe rows has harmfulness tags, so that the tag keeps its meaning during finetuning (paper, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from safety_ray.chat.encoder import ChatEncoder
from safety_ray.chat.escape import RESERVED
from safety_ray.chat.replies import reasoning_of
from safety_ray.core import records
from safety_ray.core.tag_placement import tag_positions, word_starts_by_character

ROLES = ("system", "user", "assistant")
READ = ("id", "messages", "question", "answer", "unsafe")
"""Fields of a row that are read; others are ignored"""


class Unusable(ValueError):
    """The reason why a row cannot be trained on."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Token ids, whether each is learned, and whether there are tags among them."""

    ids: list[int]
    learn: list[bool]
    tagged: bool
    reasoning: int = 0
    """replies whose reasoning is learned"""
    ignored: int = 0
    """replies with reasoning that the chat template does not render"""


class TrainingChatEncoder:
    """Encodes rows of chats with a tokenizer that has a chat template, as serving encodes their messages.

    Of the completions of rows with `unsafe`, the share `tagged_share` receives a tag before each word but the
    first with probability `tag_rate`; this requires a `tag_id`.
    """

    def __init__(
        self, tokenizer: Any, *, seed: int, tag_id: int | None, tagged_share: float, tag_rate: float
    ) -> None:
        self.seed, self.tag_id, self.tagged_share, self.tag_rate = seed, tag_id, tagged_share, tag_rate
        self._encoder = ChatEncoder(tokenizer, tag_id)
        self._render = partial(tokenizer.apply_chat_template, tokenize=False)

    def encode(self, name: str, row: dict[str, Any]) -> Chat:
        """Encode a row, {messages: [{role, content, weight?}], unsafe?} or {question, answer}.

        A reply may also have its reasoning (see `chat.replies.REASONING`), which is learned if the template
        renders it. A reply of weight 0 is part of the chat but is not learned, and contains no tags. Random
        choices depend on the seed and `name`. Raises Unusable for a row without messages, of another form, or
        without anything to learn.
        """
        messages, learned = checked(row)
        if row.get("unsafe") not in (None, False, True):  # 0 and 1 as well
            raise Unusable(f"unsafe={row['unsafe']!r} must be true or false")
        try:
            chat = self._encoder.encode_with_replies(self._render, messages)
        except Exception as error:  # a template may raise anything
            raise Unusable(f"the chat cannot be rendered: {error}") from error
        altered = [n for n in learned if chat.altered is None or n in chat.altered]
        if altered:
            raise Unusable(f"the chat template alters message {altered[0]}, of the assistant")
        starts, ends = np.array(chat.tokens.offsets or [(0, 0)], np.int64).T
        learn = np.zeros(len(chat.tokens.ids), np.bool_)
        tags: list[int] = []
        tagged = (
            self.tag_id is not None
            and bool(row.get("unsafe"))
            and records.stable_hash(self.seed, "tagged", name) < self.tagged_share * 2**64
        )
        for reply in (reply for reply in chat.replies if reply.message in learned):
            learn |= (ends > reply.first) & (starts < reply.turn_end)
            if tagged:
                words = word_starts_by_character(chat.text[reply.start : reply.end], ends - reply.start)
                tags += tag_positions(words, self.tag_rate, self.seed, f"{name}/{reply.message}").tolist()
        if not learn.any():
            raise Unusable("there is no reply to learn")
        ids = np.insert(np.array(chat.tokens.ids, np.int64), tags, self.tag_id or 0)
        given = {n for n in learned if reasoning_of(messages[n])}
        rendered = {reply.message for reply in chat.replies if reply.first < reply.start}
        return Chat(
            ids.tolist(), np.insert(learn, tags, True).tolist(), bool(tags),
            reasoning=len(given & rendered), ignored=len(given - rendered),
        )  # fmt: skip


def checked(row: dict[str, Any]) -> tuple[list[dict[str, str]], list[int]]:
    """Return role, content and reasoning of each message of a row, and which messages are learned.

    Raises Unusable if they have another form.
    """
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
            raise Unusable(f"message {n} has no text content")
        if message.get("role") not in ROLES:
            raise Unusable(f"message {n} has the unknown role {message.get('role')!r}")
        if message["role"] == "assistant" and not message["content"].strip():
            raise Unusable(f"message {n}, of the assistant, is empty")
        texts = (message["content"], *reasoning_of(message).values())
        if any(character in text for text in texts for character in RESERVED):
            raise Unusable(f"message {n} contains a Unicode noncharacter (U+FDD0 to U+FDD3)")
        if message.get("weight") not in (None, 0, 1):  # as in OpenAI's finetuning format
            raise Unusable(f"message {n} has the weight {message['weight']!r}; valid are 0 and 1")
    replies = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    learned = [n for n in replies if messages[n].get("weight") != 0]
    kept = [{"role": m["role"], "content": m["content"], **reasoning_of(m)} for m in messages]
    return kept, learned
