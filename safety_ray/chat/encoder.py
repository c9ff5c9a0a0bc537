"""Encode chats so that only the template's own control tokens become control tokens.

A message may spell `<|im_end|>`, `<tool_call>` or the harmfulness tag; the model receives it as plain text.
Control tokens are all added tokens of the tokenizer but runs of spaces. Those that are not marked as special
are a part of what models write (`<think>`), so in the content of a reply, as in the model's output, they stay
control tokens. Works with any fast tokenizer, with and without `split_special_tokens`.
"""

from __future__ import annotations

import copy
import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from safety_ray.chat.escape import BREAK, Escaper
from safety_ray.chat.replies import Located, locate_messages, locate_reasoning, reasoning_of
from safety_ray.core.tag import is_control, plain_backend

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class Tokens(NamedTuple):
    """Token ids of a text, and the characters (start, end) that each token spells."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A message of the assistant in a rendered chat; positions are characters of the text."""

    message: int
    """index in the conversation"""
    start: int
    end: int
    turn_end: int
    """end of the special token that ends the turn; equal to `end` if there is none"""
    first: int
    """beginning of the text that a model writes: of the reasoning, if it is rendered, with its delimiter"""


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A rendered chat and its tokens."""

    text: str
    tokens: Tokens
    replies: list[Reply]
    altered: frozenset[int] | None
    """messages that the template does not render as they are; None if no message can be located"""


class ChatEncoder:
    """Renders a conversation and encodes the text. Keeps copies of `tokenizer`'s backend.

    The ids are those of `apply_chat_template`, with two exceptions: text of a message is never a control
    token (of a reply: never a special token), and no token spans the beginning or the end of a reply. A
    reply's tokens are thus the same in training, after a generation prompt, and in the history of a later
    request.
    """

    def __init__(self, tokenizer: Any, tag_id: int | None) -> None:
        # Two backends whose settings never change, so that threads can share them.
        self._control = copy.deepcopy(tokenizer.backend_tokenizer)
        self._control.encode_special_tokens = False
        self._control.no_truncation()
        self._control.no_padding()
        self._plain = plain_backend(tokenizer.backend_tokenizer)
        self._truncation_side = tokenizer.truncation_side
        added = tokenizer.added_tokens_decoder
        self.tag_id = tag_id
        special = {i: str(token) for i, token in added.items() if token.special or i == tag_id}
        control = special | {i: str(token) for i, token in added.items() if is_control(str(token))}
        self._special, self.control = frozenset(special), frozenset(control)
        self._escape = Escaper(self._control, control).escape
        self._escape_reply = Escaper(self._control, special).escape

    def encode_text(
        self, text: str, *, add_special_tokens: bool, truncation: bool = False, max_length: int | None = None
    ) -> list[int]:
        """Return the token ids of a text without control tokens; the arguments are those of the tokenizer."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        if truncation and max_length is not None:
            added = self._plain.num_special_tokens_to_add(False) if add_special_tokens else 0
            encoding.truncate(max(0, max_length - added), direction=self._truncation_side)
        ids: list[int] = self._plain.post_process(encoding, add_special_tokens=add_special_tokens).ids
        return ids

    def encode(self, render: Callable[..., str], conversation: list[Any], **variables: Any) -> list[int]:
        """Return the token ids of `render(conversation, **variables)`; see `encode_with_replies`."""
        return self.encode_with_replies(render, conversation, **variables).tokens.ids

    def encode_with_replies(
        self, render: Callable[..., str], conversation: list[Any], **variables: Any
    ) -> EncodedChat:
        """Encode the text that the chat template `render` returns for `conversation` and `variables`.

        Every string in `conversation` and `variables` is plain text, except roles, which must be in ROLES
        because templates build control tokens from them. Raises ValueError for another role.
        """
        for message in conversation:
            if message.get("role") not in ROLES:
                raise ValueError(f"unknown role {message.get('role')!r}: use one of {', '.join(ROLES)}.")
        template = variables.pop("chat_template", None)  # the server's own, never a request's
        messages = [self._escape_message(message) for message in conversation]
        escaped = {key: self._escape(value) for key, value in variables.items()}

        def render_messages(messages: list[Any], **more: Any) -> str:
            return render(messages, chat_template=template, **{**escaped, **more})

        rendered = render_messages(messages)
        located: Located | None = Located()
        if any(message["role"] == "assistant" for message in messages):
            located = locate_messages(render_messages, messages, rendered)
        spans = {} if located is None else located.spans
        replies = {n: span for n, span in spans.items() if messages[n]["role"] == "assistant"}
        firsts = _firsts(render_messages, messages, rendered, spans)
        edges = sorted({*firsts.values(), *(edge for span in replies.values() for edge in span)})
        tokens = self._encode(rendered, edges)
        return EncodedChat(
            text=rendered.replace(BREAK, ""),
            tokens=tokens,
            replies=self._replies(replies, firsts, sorted(start for start, _ in spans.values()), tokens),
            altered=None if located is None else located.altered,
        )

    def _escape_message(self, message: Any) -> dict[str, Any]:
        escaped = {}
        for key, value in message.items():
            of_reply = key == "content" and message["role"] == "assistant"
            escape = self._escape_reply if of_reply else self._escape
            escaped[key] = value if key == "role" else escape(value)
        return escaped

    def _encode(self, rendered: str, edges: list[int]) -> Tokens:
        """Encode `rendered` without its breaks. No token spans one of `edges` if that can be avoided."""
        encoding = self._control.encode(rendered, add_special_tokens=False)
        text, tokens = rendered, Tokens(list(encoding.ids), encoding.offsets)
        escaped = BREAK in rendered
        if escaped:
            text = rendered.replace(BREAK, "")
            breaks = [n for n, character in enumerate(rendered) if character == BREAK]
            tokens = Tokens(
                tokens.ids, [(_shift(left, breaks), _shift(right, breaks)) for left, right in tokens.offsets]
            )
        # Only the template can spell the tag in the rendered text, and it must not: plain text as well.
        encode_plainly = escaped or self.tag_id in tokens.ids
        if not encode_plainly and not _any_spanned(tokens, edges, 0):
            return tokens
        result = Tokens([], [])
        for first, last, start, end in self._chunks(tokens, len(text)):
            chunk = Tokens(tokens.ids[first:last], tokens.offsets[first:last])
            inside = edges[bisect_right(edges, start) : bisect_left(edges, end)]
            if encode_plainly:
                chunk = self._encode_plainly(text, [start, end])
            if _any_spanned(chunk, inside, start):
                split = self._encode_plainly(text, [start, *inside, end])
                # A tokenizer that puts a space before each text it encodes would add one here.
                if self._plain.decode(split.ids) == self._plain.decode(chunk.ids):
                    chunk = split
            result.ids.extend(chunk.ids + tokens.ids[last : last + 1])
            result.offsets.extend(chunk.offsets + tokens.offsets[last : last + 1])
        return result

    def _chunks(self, tokens: Tokens, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the chunks between control tokens: first and last token, first and last character."""
        first = start = 0
        for n, (token, (left, right)) in enumerate(zip(*tokens, strict=True)):
            if token in self.control and token != self.tag_id:
                yield first, n, start, left
                first, start = n + 1, right
        yield first, len(tokens.ids), start, length

    def _encode_plainly(self, text: str, positions: list[int]) -> Tokens:
        """Encode `text` from each of the `positions` to the next, without control tokens."""
        tokens = Tokens([], [])
        for start, end in itertools.pairwise(positions):
            encoding = self._plain.encode(text[start:end], add_special_tokens=False)
            tokens.ids.extend(encoding.ids)
            tokens.offsets.extend((start + left, start + right) for left, right in encoding.offsets)
        return tokens

    def _replies(
        self,
        spans: dict[int, tuple[int, int]],
        firsts: dict[int, int],
        message_starts: list[int],
        tokens: Tokens,
    ) -> list[Reply]:
        special = [span for token, span in zip(*tokens, strict=True) if token in self._special]
        lefts = [left for left, _ in special]
        replies = []
        for message, (start, end) in sorted(spans.items()):
            after = bisect_left(message_starts, end)
            next_message = message_starts[after] if after < len(message_starts) else math.inf
            token = bisect_left(lefts, end)
            ends_turn = token < len(special) and lefts[token] <= next_message
            turn_end = special[token][1] if ends_turn else end
            replies.append(Reply(message, start, end, turn_end, firsts.get(message, start)))
        return replies


def _firsts(
    render: Callable[..., str], messages: list[Any], rendered: str, spans: dict[int, tuple[int, int]]
) -> dict[int, int]:
    """Return where the model begins to write each reply whose reasoning `render` renders in `rendered`.

    That is behind the generation prompt, so a delimiter such as `<think>` is written by the model unless the
    generation prompt has it. `spans`: the positions of messages.
    """
    if not any(map(reasoning_of, messages)):
        return {}
    reasoning = locate_reasoning(render, messages, rendered)
    whole, plain = (render(messages, add_generation_prompt=on) for on in (True, False))
    prompt = whole.removeprefix(plain) if whole.startswith(plain) else ""
    text, firsts, before = rendered.replace(BREAK, ""), {}, 0
    for message, span in sorted(spans.items()):
        before, last_end = max(before, span[1]), before
        position = reasoning.get(message)
        if position is not None and position < span[0]:
            start = text.rfind(prompt, last_end, position)
            firsts[message] = start + len(prompt) if start >= 0 else position
    return firsts


def _shift(position: int, breaks: list[int]) -> int:
    """Position in a text without its breaks, which are at `breaks` in the text that `position` refers to."""
    return position - bisect_left(breaks, position)


def _any_spanned(tokens: Tokens, edges: list[int], start: int) -> bool:
    """Return whether one of `tokens`, whose text begins at `start`, contains an edge in its middle."""
    ends = [end for _, end in tokens.offsets] if edges else []
    for edge in edges:
        n = bisect_left(ends, edge)
        if edge > start and n < len(ends) and ends[n] != edge:
            return True
    return False
