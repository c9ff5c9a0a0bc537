"""Shards of the training order: how many rows each fills, and one file per shard.

A document's place is a number that depends on its hash and the mixture, so it never depends on blocks or
workers. A shard holds a stretch of places, so that shard after shard is the order of the training.
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
"""What packing reads of an encoded document."""
Bools = npt.NDArray[np.bool_]
_LARGEST = 2**31 - 1  # Arrow's offsets into a list column


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is trained on when: the order of documents, and the stretch in which tags stand in them."""

    order: Order
    shards: int
    tag_id: int
    tags_start: float = 0.0
    tags_until: float = 1.0

    def place(self, documents: pa.Table) -> pa.Table:
        """Encoded documents at their places in the training, with the column `shard`."""
        placed = self.order.place(documents)
        shard = [place * self.shards >> 64 for place in placed.column("order").to_pylist()]
        return placed.append_column("shard", pa.array(shard, pa.int32()))

    def tagged(self, places: pa.ChunkedArray) -> Bools:
        """Which of the places lie where tags stand."""
        at = places.to_numpy().astype(np.float64) / 2.0**64
        found: Bools = (self.tags_start <= at) & (at < self.tags_until)
        return found


@dataclass(slots=True)
class Counts:
    """Sums over encoded documents: by use, and as trained on tokens by shard and recipe, and tags."""

    uses: Counter[str] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    recipes: Counter[str] = field(default_factory=Counter)
    tags: int = 0


def tokens_of(encoded: list[str]) -> Counter[tuple[str, int | None]]:
    """Tokens of the documents to train on, by recipe and score."""
    found: Counter[tuple[str, int | None]] = Counter()
    for name in encoded:
        with fsspec.open(name) as file:
            rows = pq.read_table(file, columns=["recipe", "score", "tokens"])
        for row in rows.group_by(["recipe", "score"]).aggregate([("tokens", "sum")]).to_pylist():
            found[row["recipe"], row["score"]] += row["tokens_sum"]
    return +found


def count(encoded: list[str], schedule: Schedule) -> Counts:
    """Add up the Parquet files of encoded documents; only what has tokens is named."""
    counts = Counts()
    for name in encoded:
        with fsspec.open(name) as file:
            rows = pq.read_table(file, columns=["use", "recipe", "score", "order", "tokens", "tags"])
        for use in rows.column("use").value_counts().to_pylist():
            counts.uses[use["values"]] += use["counts"]
        rows = schedule.place(rows.filter(pc.greater(rows.column("tokens"), 0)))
        stand = pa.array(schedule.tagged(rows.column("order")))
        tags = pc.if_else(stand, rows.column("tags"), 0)
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
    """Position of the first row of each shard, shards one after the other, and the number of rows."""
    found: dict[int, int] = {}
    rows = 0
    for shard, held in sorted(tokens.items()):
        if held > _LARGEST - row_length:
            raise UserError(f"a shard would hold {held:,} tokens, more than {_LARGEST:,}: set more shards.")
        found[shard] = rows
        rows += -(-held // row_length)
    return found, rows


def only_shards(batch: pa.Table, shards: list[int], schedule: Schedule) -> pa.Table:
    """The encoded documents of `shards` that are trained on, at their places."""
    placed = schedule.place(batch.filter(pc.is_valid(batch.column("input_ids"))))
    here = pc.is_in(placed.column("shard"), value_set=pa.array(shards, pa.int32()))
    placed = placed.filter(here)
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
    at = placed.column_names.index("input_ids")
    return placed.set_column(at, "input_ids", pa.array(ids, pa.list_(pa.int32())))


def write_shard(
    documents: pa.Table,
    path: str,
    row_length: int,
    end_id: int,
    first_rows: dict[int, int],
    not_learned: int | None,
) -> pa.Table:
    """Write the file of the one shard that `documents` are, and return its number as a table."""
    shard = documents.column("shard")[0].as_py()
    rows = pack_rows(documents, row_length, end_id, first_rows[shard], not_learned)
    write_whole(rows, path_of(path, shard))
    return pa.table({"shard": [shard]})


def path_of(output: str, shard: int) -> str:
    return f"{output.rstrip('/')}/data/shard-{shard:05}.parquet"


def write_whole(rows: pa.Table, path: str) -> None:
    """Write beside, then rename, so that a file that is there is a whole one."""
    dataset.write_table(rows, f"{path}.part")
    fs, root = filesystem.find(path)
    fs.mv(f"{root}.part", root)


def exists(path: str) -> bool:
    fs, root = filesystem.find(path)
    return bool(fs.exists(root))
