"""Simulated documents: ids, and values of which one in forty occurs twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

ROWS_PER_FILE = 1_000_000
REPEATED = 40
"""One of so many rows repeats the value of another."""


def ranges(rows: int, per_file: int = ROWS_PER_FILE) -> Iterator[tuple[int, int]]:
    """Return the first row and the end of each file."""
    for first in range(0, rows, per_file):
        yield first, min(first + per_file, rows)


def unique(first: int, end: int) -> pa.Array:
    """Return the ids of rows, 19 characters each."""
    return pa.array(np.arange(first, end) + 10**18, pa.int64()).cast(pa.string())


def repeating(first: int, end: int) -> pa.Array:
    """Return values of rows. Of each 40 rows, one has the value of a row at half its position."""
    numbers = np.arange(first, end)
    numbers = np.where(numbers % 20 == 19, numbers // 2, numbers)
    return pa.array(numbers + 10**18, pa.int64()).cast(pa.string())
