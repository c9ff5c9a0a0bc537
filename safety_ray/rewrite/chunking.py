"""Split documents that are too long for one prompt at paragraphs, and join their rewritten chunks."""

from __future__ import annotations

import re
from typing import NamedTuple

from safety_ray.core.chunks import Chunk, middle_of_most_harmful

# Where a text may be split, best first: between paragraphs, lines, sentences, words.
_BREAKS = (r"\n[^\S\n]*\n\s*", r"\n\s*", r"(?<=[.!?…。！？])[\"'”’)\]]*\s*", r"\s+")
_SEPARATOR = "\n\n"


class Span(NamedTuple):
    """Characters `start` to `end` of a text, without `end`."""

    start: int
    end: int


def split_text(text: str, max_chars: int) -> list[Span]:
    """Split `text` into spans of at most `max_chars` characters, in order, at the best possible breaks.

    Only white space is between two spans. As many paragraphs as fit stay together; a paragraph that is too
    long is split at lines, then sentences, then words, then anywhere.
    """
    start = len(text) - len(text.lstrip())
    return _split(text, Span(start, max(start, len(text.rstrip()))), max_chars, 0)


def _split(text: str, span: Span, max_chars: int, level: int) -> list[Span]:
    if span.end - span.start <= max_chars:
        return [span]
    if level == len(_BREAKS):
        starts = range(span.start, span.end, max_chars)
        return [Span(start, min(start + max_chars, span.end)) for start in starts]
    segments, start = [], span.start
    for gap in re.compile(_BREAKS[level]).finditer(text, span.start, span.end):
        # A closing quote after a sentence belongs to it: only white space is left out.
        end = start + len(text[start : gap.end()].rstrip())
        if start < end and gap.end() < span.end:
            segments.append(Span(start, end))
            start = gap.end()
    segments.append(Span(start, span.end))
    spans: list[Span] = []
    for segment in segments:
        if spans and segment.end - spans[-1].start <= max_chars:
            spans[-1] = Span(spans[-1].start, segment.end)
        else:
            spans += _split(text, segment, max_chars, level + 1)
    return spans


def most_harmful_span(text: str, chunks: list[Chunk] | None, max_chars: int) -> str:
    """Return the span of `text` at the middle of the classifier's most harmful chunk; without, the first."""
    spans = split_text(text, max_chars)
    if len(spans) == 1 or not chunks:
        return text[slice(*spans[0])]
    middle = middle_of_most_harmful(chunks)
    return text[slice(*next((span for span in spans if middle < span.end), spans[-1]))]


def join_texts(texts: list[str]) -> tuple[str, list[Span]]:
    """Return the rewritten chunks as one text, and the span of each chunk in it."""
    spans, start = [], 0
    for text in texts:
        spans.append(Span(start, start + len(text)))
        start += len(text) + len(_SEPARATOR)
    return _SEPARATOR.join(texts), spans


def join_source(chunks: list[str], starts: list[int]) -> str:
    """Return a document from its chunks, each at its start in it. The white space between them is new."""
    text = ""
    for chunk, start in zip(chunks, starts, strict=True):
        gap = start - len(text)
        text += (" " if gap == 1 else "\n" * gap) + chunk
    return text
