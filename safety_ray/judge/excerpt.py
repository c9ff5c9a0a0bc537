"""The part of a long document that a judge reads, so that a page of any length has a bounded cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from safety_ray.core.chunks import Chunk, middle_of_most_harmful

GAP = "\n[…]\n"
"""The place of an excerpt at which characters of the document are left out."""
WINDOWS = 4


def excerpt(text: str, max_chars: int, chunks: Sequence[Chunk] | None = None) -> str:
    """Return `text`, or windows of a longer one with `max_chars` characters in all, joined by GAP.

    With the classifier's `chunks`, the windows are the beginning and the surroundings of the most harmful
    chunk. Without them, they are WINDOWS parts of equal length at equal distances, from the beginning to the
    end.
    """
    if len(text) <= max_chars:
        return text
    if chunks:
        size = max_chars // 2
        starts = [0, min(max(middle_of_most_harmful(chunks) - size // 2, size), len(text) - size)]
    else:
        size = max_chars // WINDOWS
        starts = [i * (len(text) - size) // (WINDOWS - 1) for i in range(WINDOWS)]
    parts = [text[:size]]
    for previous, start in itertools.pairwise(starts):
        parts += [GAP if start > previous + size else "", text[start : start + size]]
    return "".join(parts)
