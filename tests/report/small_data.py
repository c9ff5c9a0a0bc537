"""A few documents whose numbers can be counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from safety_ray.core import dataset
from safety_ray.core.records import REWRITTEN, SCORED, Column, schema

SCORED_ROWS: list[dict[str, Any]] = [
    {"id": "a", "score": 0, "text": "a page about soup and bread with no harm in it"},
    {"id": "b", "score": 0, "text": "how to find a home address on a map"},
    {"id": "c", "score": 2, "text": "counterfeit goods and Counterfeit-Goods again"},
    {"id": "d", "score": 4, "text": "racial hatred after a mass shooting . hate speech"},
    {"id": "e", "score": 5, "text": "hate speech hate speech hate speech"},
]
REWRITTEN_ROWS: list[dict[str, Any]] = [
    {
        "id": "c/r",
        "source_id": "c",
        "recipe": "rephrase",
        "source_score": 2,
        "score": 0,
        "text": "some goods are copies",
    },
    {
        "id": "d/n",
        "source_id": "d",
        "recipe": "refuse",
        "source_score": 4,
        "score": 1,
        "text": "I will not write hate speech",
    },
    {
        "id": "d/m",
        "source_id": "d/n",
        "recipe": "moralize",
        "source_score": 4,
        "score": 0,
        "text": "why words can hurt people",
    },
    {"id": "e/n", "source_id": "e", "recipe": "refuse", "source_score": 5, "score": 4, "text": "no"},
]


def table(rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> pa.Table:
    """Return the rows, with values for the other columns of their schema."""
    defaults = {"probs": [0.5, 0.5], "scored_chunks": [{"end": 9, "score": 0}], "style": "plain"}
    return pa.Table.from_pylist([{**defaults, **row} for row in rows], schema(columns))


def write(folder: Path) -> tuple[str, str]:
    """Write the two datasets, the scored one as two files, and return their paths."""
    dataset.write_table(table(SCORED_ROWS[:3], SCORED), str(folder / "scored" / "1.parquet"))
    dataset.write_table(table(SCORED_ROWS[3:], SCORED), str(folder / "scored" / "2.parquet"))
    dataset.write_table(table(REWRITTEN_ROWS, REWRITTEN), str(folder / "rewritten" / "1.parquet"))
    return str(folder / "scored"), str(folder / "rewritten")
