"""The audit's sample: so many documents of each score, chosen by seed and id alone."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES, stable_hash

SIZES = ("documents", "characters", "tokens")
_SCHEMA = pa.schema(
    [
        ("score", pa.int64()),
        *((name, pa.int64()) for name in SIZES),
        ("marks", pa.list_(pa.uint64())),
        ("ids", pa.list_(pa.string())),
    ]
)


def tally(batch: pa.Table, *, seed: int, per_score: int, labels: str) -> pa.Table:
    """One row for each score in `batch`: sizes, and the `per_score` documents with the lowest marks.

    With `labels`, the name of a column, only rows that have one can be chosen. Tokens are 0 where
    the dataset does not count them.
    """
    columns = {name: batch.column(name).to_pylist() for name in ("id", "score")}
    lengths = pc.utf8_length(batch.column("text")).to_pylist()
    tokens = batch.column("token_count").to_pylist() if "token_count" in batch.column_names else None
    labelled = batch.column(labels).is_valid().to_pylist() if labels else None
    sums: dict[int, list[int]] = {}
    chosen: dict[int, list[tuple[int, str]]] = {}
    for n, (id, score) in enumerate(zip(columns["id"], columns["score"], strict=True)):
        if score not in range(SCORES):
            raise UserError(f"row '{id}' has score {score}; a score is an integer from 0 to {SCORES - 1}.")
        size = sums.setdefault(score, [0, 0, 0])
        for k, more in enumerate((1, lengths[n] or 0, (tokens[n] or 0) if tokens else 0)):
            size[k] += more
        if labelled is None or labelled[n]:
            chosen.setdefault(score, []).append((stable_hash(seed, "audit", id), id))
    rows: list[dict[str, Any]] = []
    for score, size in sums.items():
        lowest = heapq.nsmallest(per_score, chosen.get(score, []))
        marks, ids = [m for m, _ in lowest], [i for _, i in lowest]
        rows.append({"score": score, **dict(zip(SIZES, size, strict=True)), "marks": marks, "ids": ids})
    return pa.Table.from_pylist(rows, _SCHEMA)


def merge(tallies: Iterable[pa.Table], per_score: int) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    """((6,) totals of each size, ids of the sample) of the tables of `tally`."""
    totals = {name: np.zeros(SCORES, np.int64) for name in SIZES}
    lowest: list[list[tuple[int, str]]] = [[] for _ in range(SCORES)]
    for table in tallies:
        for row in table.to_pylist():
            score = row["score"]
            for name in SIZES:
                totals[name][score] += row[name]
            both = [*lowest[score], *zip(row["marks"], row["ids"], strict=True)]
            lowest[score] = heapq.nsmallest(per_score, both)
    return totals, [id for chosen in lowest for _, id in chosen]


def only(batch: pa.Table, ids: pa.Array) -> pa.Table:
    """The rows of `batch` whose id is one of `ids`."""
    return batch.filter(pc.is_in(batch.column("id").cast(ids.type), value_set=ids))


def confusion(sample: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """(6, 6) rows of `sample` by score and by their label in `column`; UserError for another label."""
    counts = np.zeros((SCORES, SCORES), np.int64)
    for row in sample.select(["id", "score", column]).to_pylist():
        label = row[column]
        if isinstance(label, bool) or label not in range(SCORES):
            raise UserError(f"row '{row['id']}' has {column} {label}; a label is an integer from 0 to 5.")
        counts[row["score"], int(label)] += 1
    return counts
