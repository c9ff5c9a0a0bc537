"""The chunks in which the classifier reads a long text: the column `scored_chunks` of scored documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import pyarrow as pa

CHUNKS = "scored_chunks"
CHUNKS_TYPE = pa.list_(pa.struct([("end", pa.int32()), ("score", pa.int8())]))


class Chunk(TypedDict):
    """A part of a text, from the end of the chunk before it or from the beginning of the text."""

    end: int
    """characters of the text up to the end of the chunk"""
    score: int
    """the classifier's score, 0-5"""


def middle_of_most_harmful(chunks: Sequence[Chunk]) -> int:
    """Return the character in the middle of the chunk with the highest score, of several the first one."""
    scores = [chunk["score"] for chunk in chunks]
    n = scores.index(max(scores))
    start = chunks[n - 1]["end"] if n else 0
    return (start + chunks[n]["end"]) // 2
