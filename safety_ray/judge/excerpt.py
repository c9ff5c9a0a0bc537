"""The part of a long document that a judge reads, so that a page of any length has a bounded cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

GAP = "\n[…]\n"
"""The place of an excerpt at which characters of the document are left out."""
WINDOWS = 4


def excerpt(text: str, max_chars: int, chunk_scores: Sequence[int] | None = None) -> str:
    """Return `text`, or windows of a longer one with `max_chars` characters in all, joined by GAP.

    With `chunk_scores`, the classifier's scores of equal shares of the text, the windows are the beginning
    and the surroundings of the most harmful chunk. Without them, they are WINDOWS parts of equal length at
    equal distances, from the beginning to the end.
    """
    if len(text) <= max_chars:
        return text
    if chunk_scores:
        size = max_chars // 2
        middle = (chunk_scores.index(max(chunk_scores)) + 0.5) / len(chunk_scores) * len(text)
        starts = [0, min(max(int(middle) - size // 2, size), len(text) - size)]
    else:
        size = max_chars // WINDOWS
        starts = [i * (len(text) - size) // (WINDOWS - 1) for i in range(WINDOWS)]
    parts = [text[:size]]
    for previous, start in itertools.pairwise(starts):
        parts += [GAP if start > previous + size else "", text[start : start + size]]
    return "".join(parts)
