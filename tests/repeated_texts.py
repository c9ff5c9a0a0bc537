"""Rows in which texts occur several times."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def rows(number: int, distinct: int, seed: int) -> pa.Table:
    drawn = np.random.default_rng(seed).integers(0, distinct, number)
    texts = [f"Text {i}: {'a quiet soup recipe' if i % 2 else 'I will hurt you all'}." for i in drawn]
    return pa.table({"id": [f"d{n:03}" for n in range(number)], "text": texts, "place": list(range(number))})
