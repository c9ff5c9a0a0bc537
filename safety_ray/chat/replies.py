"""Find where a chat template puts the messages in the text that it renders.

The template renders the conversation a second time with marks around the messages. If the marked text
without its marks equals the plain text, the positions of the marks are those of the messages. A template that
splits a message and joins its parts again, as Qwen 3 does with reasoning, may drop the first mark: then the
message is unaltered if its text is in front of the last mark.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from safety_ray.chat.escape import BREAK

_START, _END, _STOP = "\ufdd1", "\ufdd3", "\ufdd2"  # a mark is _START or _END, a message's index, _STOP
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that may have the reasoning of a reply, apart from its content"""
Side = tuple[int, str]  # a message's index, and _START or _END
_ATTEMPTS = 64
"""Most renderings of a conversation that find out where a template strips white space. At edges that were not
tried, white space is outside the span of the message, as if the template stripped it."""
_MARK = re.compile(f"([{_START}{_END}])([0-9]+){_STOP}")


@dataclass(frozen=True, slots=True)
class Located:
    """Positions of messages in a rendered text, in characters, not counting BREAK."""

    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    """start and end of each message that is rendered once and unaltered, by its index"""
    altered: frozenset[int] = frozenset()
    """messages that are rendered in another way, e.g. without their beginning"""


def locate_messages(
    render: Callable[[list[Any]], str], conversation: list[Any], rendered: str
) -> Located | None:
    """Return where `render` puts the messages of `conversation`, whose rendered text is `rendered`.

    A reply's span includes white space at its edges unless the template strips it; that of another message
    never does. Returns None if the template renders marked messages in another way than plain ones.
    """

    def render_marked(outside: set[Side]) -> str | None:
        marked = [_marked(message, n, outside) for n, message in enumerate(conversation)]
        try:
            text = render(marked)
        except Exception:  # a template may raise anything; it has accepted the plain messages
            return None
        return text if _MARK.sub("", text) == rendered else None

    sides = [
        (n, mark)
        for n, message in enumerate(conversation)
        if message.get("role") == "assistant" and (content := _text(message)).strip()
        for mark, stripped in ((_START, content.lstrip()), (_END, content.rstrip()))
        if stripped != content
    ]
    # A mark outside white space keeps a template from stripping it, so find out where it does.
    outside = set(sides)
    text = render_marked(outside)
    if text is None:
        text, outside = render_marked(set()), set()
        if text is None:
            return None
        possible = set(sides)
        groups = [[side for side in _with_white_space(text, conversation) if side in possible]]
        for _ in range(_ATTEMPTS):
            if not (group := groups.pop() if groups else []):
                break
            attempt = render_marked(outside | set(group))
            if attempt is not None:
                text, outside = attempt, outside | set(group)
            elif len(group) > 1:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
    bodies = [_text(message)[: _edges(message, n, outside)[1]] for n, message in enumerate(conversation)]
    return _positions(text, [body.replace(BREAK, "") for body in bodies])


def _with_white_space(text: str, conversation: list[Any]) -> list[Side]:
    """Return the sides at which `text`, which has marks, has the white space of the message or its own."""
    sides = []
    for mark in _MARK.finditer(text):
        content = _text(conversation[int(mark.group(2))])
        left, right = len(content) - len(content.lstrip()), len(content.rstrip())
        if mark.group(1) == _START and text.endswith(content[:left], 0, mark.start()):
            sides.append((int(mark.group(2)), _START))
        elif mark.group(1) == _END and text.startswith(content[right:], mark.end()):
            sides.append((int(mark.group(2)), _END))
    return list(dict.fromkeys(sides))


def locate_reasoning(
    render: Callable[[list[Any]], str], conversation: list[Any], rendered: str
) -> dict[int, int]:
    """Return where the reasoning of each reply begins in `rendered`, as `locate_messages` does for messages.

    A reply whose reasoning the template does not render, or more than once, is left out.
    """
    try:
        text = render([_with_marked_reasoning(message, n) for n, message in enumerate(conversation)])
    except Exception:  # as in `locate_messages`
        return {}
    if _MARK.sub("", text) != rendered:
        return {}
    marks = list(_marks(text))
    counts = Counter((kind, index) for kind, index, _ in marks)
    return {
        index: position
        for kind, index, position in marks
        if kind == _START and counts[_START, index] == counts[_END, index] == 1
    }


def reasoning_of(message: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a reply that have its reasoning. Templates read one of them."""
    fields = {key: message.get(key) for key in REASONING if message.get("role") == "assistant"}
    return {key: value for key, value in fields.items() if isinstance(value, str) and value.strip()}


def _with_marked_reasoning(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    marked = {}
    for key, text in reasoning_of(message).items():
        left, right = len(text) - len(text.lstrip()), len(text.rstrip())
        start, end = f"{_START}{index}{_STOP}", f"{_END}{index}{_STOP}"
        marked[key] = f"{text[:left]}{start}{text[left:right]}{end}{text[right:]}"
    return {**message, **marked}


def _text(message: Mapping[str, Any]) -> str:
    """Return the text of a message; empty if it has none, or several parts."""
    content = message.get("content")
    # vLLM turns a text into a list of one part for templates that expect lists.
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        content = content[0].get("text")
    return content if isinstance(content, str) else ""


def _marked(message: Mapping[str, Any], index: int, outside: set[Side]) -> dict[str, Any]:
    """Return the message with marks around its text, outside white space only on the sides `outside`."""
    text, content = _text(message), message.get("content")
    if not text.strip():
        return dict(message)
    left, right = _edges(message, index, outside)
    start, end = f"{_START}{index}{_STOP}", f"{_END}{index}{_STOP}"
    text = f"{text[:left]}{start}{text[left:right]}{end}{text[right:]}"
    return {**message, "content": [{**content[0], "text": text}] if isinstance(content, list) else text}


def _edges(message: Mapping[str, Any], index: int, outside: set[Side]) -> tuple[int, int]:
    """Return the positions of both marks in the text of the message."""
    text = _text(message)
    left = 0 if (index, _START) in outside else len(text) - len(text.lstrip())
    return left, len(text) if (index, _END) in outside else len(text.rstrip())


def _positions(text: str, bodies: list[str]) -> Located:
    """Return where the messages are in the marked `text`. `bodies`: their texts up to the last mark."""
    plain = _MARK.sub("", text).replace(BREAK, "")
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for kind, index, position in _marks(text):
        (starts if kind == _START else ends).setdefault(index, []).append(position)
    spans, altered = {}, set()
    for index in sorted(starts.keys() | ends.keys()):
        start, end = starts.get(index, []), ends.get(index, [])
        if not start and len(end) == 1:
            body = bodies[index]
            lengths = [len(whole) for whole in (body, body.lstrip()) if plain.endswith(whole, 0, end[0])]
            start = [end[0] - length for length in lengths[:1]]
        if len(start) == len(end) == 1 and start[0] <= end[0]:
            spans[index] = start[0], end[0]
        else:
            altered.add(index)
    return Located(spans, frozenset(altered))


def _marks(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield kind, message index and position of each mark; positions count neither marks nor BREAK."""
    position = previous = 0
    for mark in _MARK.finditer(text):
        between = text[previous : mark.start()]
        position += len(between) - between.count(BREAK)
        previous = mark.end()
        yield mark.group(1), int(mark.group(2)), position
