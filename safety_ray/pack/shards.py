"""Shards of the training order: number of rows of each shard, and one file per shard.

A document's place is a function of its hash and the mixture, independent of blocks and workers. A shard
contains the documents of an interval of places, so the shards in order are the training order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray.core import dataset, filesystem
from safety_ray.core.errors import UserError
from safety_ray.pack.mixture import Order
from safety_ray.pack.rows import pack_rows

COLUMNS = ["use", "order", "id", "source_id", "recipe", "score", "unsafe", "input_ids"]
"""Columns of encoded documents that packing reads"""
Bools = npt.NDArray[np.bool_]
_MAX_TOKENS = 2**31 - 1  # limit of Arrow's offsets into a list column


@dataclass(frozen=True, slots=True)
class Schedule:
    """The order of documents in training, and the interval of training in which they contain tags."""

    order: Order
    shards: int
    tag_id: int
    tags_start: float = 0.0
    tags_until: float = 1.0

    def place(self, documents: pa.Table) -> pa.Table:
        """Return encoded documents with their places in training, and with the column `shard`."""
        placed = self.order.place(documents)
        shard = [place * self.shards >> 64 for place in placed.column("order").to_pylist()]
        return placed.append_column("shard", pa.array(shard, pa.int32()))

    def tagged(self, places: pa.ChunkedArray) -> Bools:
        """Return which of the places are in the interval in which documents contain tags."""
        share = places.to_numpy().astype(np.float64) / 2.0**64
        tagged: Bools = (self.tags_start <= share) & (share < self.tags_until)
        return tagged


@dataclass(slots=True)
class Counts:
    """Numbers of documents by use, of tokens to train on by shard and by recipe, and of tags."""

    uses: Counter[str] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    recipes: Counter[str] = field(default_factory=Counter)
    tags: int = 0


def tokens_of(encoded: list[str]) -> Counter[tuple[str, int | None]]:
    """Return the number of tokens of the documents to train on, by recipe and score."""
    totals: Counter[tuple[str, int | None]] = Counter()
    for name in encoded:
        with fsspec.open(name) as file:
            rows = pq.read_table(file, columns=["recipe", "score", "tokens"], partitioning=None)
        for row in rows.group_by(["recipe", "score"]).aggregate([("tokens", "sum")]).to_pylist():
            totals[row["recipe"], row["score"]] += row["tokens_sum"]
    return +totals


def count(encoded: list[str], schedule: Schedule) -> Counts:
    """Return the counts of Parquet files of encoded documents, without entries that are 0."""
    counts = Counts()
    for name in encoded:
        with fsspec.open(name) as file:
            names = ["use", "recipe", "score", "order", "tokens", "tags"]
            rows = pq.read_table(file, columns=names, partitioning=None)
        for use in rows.column("use").value_counts().to_pylist():
            counts.uses[use["values"]] += use["counts"]
        rows = schedule.place(rows.filter(pc.greater(rows.column("tokens"), 0)))
        tagged = pa.array(schedule.tagged(rows.column("order")))
        tags = pc.if_else(tagged, rows.column("tags"), 0)
        tokens = pc.subtract(pc.add(rows.column("tokens"), tags), rows.column("tags"))
        sums = pa.table(
            {"shard": rows.column("shard"), "recipe": rows.column("recipe"), "tokens": tokens, "tags": tags}
        )
        for row in (
            sums.group_by(["shard", "recipe"]).aggregate([("tokens", "sum"), ("tags", "sum")]).to_pylist()
        ):
            counts.tokens[row["shard"]] += row["tokens_sum"]
            counts.recipes[row["recipe"]] += row["tokens_sum"]
            counts.tags += row["tags_sum"]
    counts.tokens, counts.recipes = +counts.tokens, +counts.recipes
    return counts


def first_rows(tokens: Mapping[int, int], row_length: int) -> tuple[dict[int, int], int]:
    """Return the position of each shard's first row in the order of all shards, and the number of rows."""
    positions: dict[int, int] = {}
    rows = 0
    for shard, count in sorted(tokens.items()):
        if count > _MAX_TOKENS - row_length:
            raise UserError(
                f"shards: a shard has {count:,} tokens, more than {_MAX_TOKENS:,}; set more shards."
            )
        positions[shard] = rows
        rows += -(-count // row_length)
    return positions, rows


def only_shards(batch: pa.Table, shards: list[int], schedule: Schedule) -> pa.Table:
    """Return the encoded documents of `shards` to train on, with their places."""
    placed = schedule.place(batch.filter(pc.is_valid(batch.column("input_ids"))))
    placed = placed.filter(pc.is_in(placed.column("shard"), value_set=pa.array(shards, pa.int32())))
    if schedule.tags_start <= 0 and schedule.tags_until >= 1:
        return placed
    ids = [
        row if tagged else row[row != schedule.tag_id]
        for row, tagged in zip(
            placed.column("input_ids").to_numpy(zero_copy_only=False),
            schedule.tagged(placed.column("order")),
            strict=True,
        )
    ]
    column = placed.column_names.index("input_ids")
    return placed.set_column(column, "input_ids", pa.array(ids, pa.list_(pa.int32())))


def write_shard(
    documents: pa.Table,
    path: str,
    row_length: int,
    end_id: int,
    first_rows: dict[int, int],
    not_learned: int | None,
) -> pa.Table:
    """Write the file of a shard, whose documents are `documents`, and return its number as a table."""
    shard = documents.column("shard")[0].as_py()
    rows = pack_rows(documents, row_length, end_id, first_rows[shard], not_learned)
    write_atomically(rows, path_of(path, shard))
    return pa.table({"shard": [shard]})


def path_of(output: str, shard: int) -> str:
    """Return the path of a shard's file in the output folder."""
    return f"{output.rstrip('/')}/data/shard-{shard:05}.parquet"


def write_atomically(rows: pa.Table, path: str) -> None:
    """Write to a temporary name, then rename, so that an existing file is always complete."""
    dataset.write_table(rows, f"{path}.part")
    fs, root = filesystem.find(path)
    fs.mv(f"{root}.part", root)


def exists(path: str) -> bool:
    """Return whether `path` exists, on any filesystem."""
    fs, root = filesystem.find(path)
    return bool(fs.exists(root))
