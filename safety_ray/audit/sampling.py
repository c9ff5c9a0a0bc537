"""The sample of an audit: a number of documents of each score, chosen by seed and id."""

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
        ("ranks", pa.list_(pa.uint64())),
        ("ids", pa.list_(pa.string())),
    ]
)


def tally(batch: pa.Table, *, seed: int, per_score: int, labels: str) -> pa.Table:
    """Return one row for each score in `batch`: sizes, and the `per_score` documents with the lowest ranks.

    The rank of a document is a hash of seed and id. With `labels`, the name of a column, only rows with a
    label can be sampled. Tokens are 0 if the dataset has no token counts.
    """
    columns = {name: batch.column(name).to_pylist() for name in ("id", "score")}
    lengths = pc.utf8_length(batch.column("text")).to_pylist()
    tokens = batch.column("token_count").to_pylist() if "token_count" in batch.column_names else None
    labelled = batch.column(labels).is_valid().to_pylist() if labels else None
    sums: dict[int, list[int]] = {}
    candidates: dict[int, list[tuple[int, str]]] = {}
    for n, (id, score) in enumerate(zip(columns["id"], columns["score"], strict=True)):
        if score not in range(SCORES):
            raise UserError(f"row '{id}' has score {score}; a score is an integer from 0 to {SCORES - 1}.")
        totals = sums.setdefault(score, [0, 0, 0])
        for k, size in enumerate((1, lengths[n] or 0, (tokens[n] or 0) if tokens else 0)):
            totals[k] += size
        if labelled is None or labelled[n]:
            candidates.setdefault(score, []).append((stable_hash(seed, "audit", id), id))
    rows: list[dict[str, Any]] = []
    for score, totals in sums.items():
        lowest = heapq.nsmallest(per_score, candidates.get(score, []))
        ranks, ids = [rank for rank, _ in lowest], [id for _, id in lowest]
        rows.append({"score": score, **dict(zip(SIZES, totals, strict=True)), "ranks": ranks, "ids": ids})
    return pa.Table.from_pylist(rows, _SCHEMA)


def merge(tallies: Iterable[pa.Table], per_score: int) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    """Return ((6,) totals of each size, ids of the sample) from the tables of `tally`."""
    totals = {name: np.zeros(SCORES, np.int64) for name in SIZES}
    lowest: list[list[tuple[int, str]]] = [[] for _ in range(SCORES)]
    for table in tallies:
        for row in table.to_pylist():
            score = row["score"]
            for name in SIZES:
                totals[name][score] += row[name]
            candidates = [*lowest[score], *zip(row["ranks"], row["ids"], strict=True)]
            lowest[score] = heapq.nsmallest(per_score, candidates)
    return totals, [id for sampled in lowest for _, id in sampled]


def select_ids(batch: pa.Table, ids: pa.Array) -> pa.Table:
    """Return the rows of `batch` whose id is one of `ids`."""
    return batch.filter(pc.is_in(batch.column("id").cast(ids.type), value_set=ids))


def confusion(sample: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """Return (6, 6) counts of `sample` by score and label `column`. Raises UserError for an invalid label."""
    counts = np.zeros((SCORES, SCORES), np.int64)
    for row in sample.select(["id", "score", column]).to_pylist():
        label = row[column]
        if isinstance(label, bool) or label not in range(SCORES):
            raise UserError(f"row '{row['id']}' has {column} {label}; a label is an integer from 0 to 5.")
        counts[int(row["score"]), int(label)] += 1
    return counts
