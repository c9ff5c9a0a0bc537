"""Documents longer than a rewriter reads at once: cut at paragraphs, and joined again."""

from __future__ import annotations

import re
from typing import NamedTuple

# Where a text may be cut, best first: between paragraphs, lines, sentences, words.
_CUTS = (r"\n[^\S\n]*\n\s*", r"\n\s*", r"(?<=[.!?…。！？])[\"'”’)\]]*\s*", r"\s+")


class Stretch(NamedTuple):
    """Characters `start` to `end` of a text."""

    start: int
    end: int


def stretches(text: str, most: int) -> list[Stretch]:
    """`text` in order as stretches of at most `most` characters, cut at the best place there is.

    Nothing but white space lies between two stretches. As many paragraphs as fit stay together; one
    that does not fit by itself is cut at lines, then sentences, then words, then anywhere.
    """
    start = len(text) - len(text.lstrip())
    return _cut(text, Stretch(start, max(start, len(text.rstrip()))), most, 0)


def _cut(text: str, whole: Stretch, most: int, level: int) -> list[Stretch]:
    if whole.end - whole.start <= most:
        return [whole]
    if level == len(_CUTS):
        return [Stretch(at, min(at + most, whole.end)) for at in range(whole.start, whole.end, most)]
    pieces, start = [], whole.start
    for gap in re.compile(_CUTS[level]).finditer(text, whole.start, whole.end):
        # A closing quote after a sentence belongs to it: only what is white space is left out.
        end = start + len(text[start : gap.end()].rstrip())
        if start < end and gap.end() < whole.end:
            pieces.append(Stretch(start, end))
            start = gap.end()
    pieces.append(Stretch(start, whole.end))
    found: list[Stretch] = []
    for piece in pieces:
        if found and piece.end - found[-1].start <= most:
            found[-1] = Stretch(found[-1].start, piece.end)
        else:
            found += _cut(text, piece, most, level + 1)
    return found


def worst(text: str, chunk_scores: list[int] | None, most: int) -> str:
    """The stretch of `text` where the classifier saw most harm; the first where it saw none.

    `chunk_scores` are the scores of equal shares of the text, in order.
    """
    parts = stretches(text, most)
    if len(parts) == 1 or not chunk_scores:
        return text[slice(*parts[0])]
    middle = (chunk_scores.index(max(chunk_scores)) + 0.5) / len(chunk_scores) * len(text)
    return text[slice(*next((part for part in parts if middle < part.end), parts[-1]))]


def join(texts: list[str]) -> tuple[str, list[Stretch]]:
    """The rewritten parts as one text, and where in it each of them stands."""
    found, at = [], 0
    for text in texts:
        found.append(Stretch(at, at + len(text)))
        at += len(text) + 2
    return "\n\n".join(texts), found
