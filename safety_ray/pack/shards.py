"""Shards of the training order: which documents are in a shard, and one file of token rows per shard."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core import filesystem, row_groups
from safety_ray.pack.planning import Schedule
from safety_ray.pack.rows import pack_rows

COLUMNS = ["use", "order", "id", "source_id", "recipe", "score", "unsafe", "input_ids"]
"""Columns of encoded documents that packing reads"""


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


def write_shards(documents: pa.Table, **settings: Any) -> pa.Table:
    """Write the file of each shard of `documents`, which has all of their documents; see `write_shard`."""
    shards = documents.column("shard")
    numbers = pc.unique(shards).to_pylist()
    for shard in numbers:
        own = documents if len(numbers) == 1 else documents.filter(pc.equal(shards, shard))
        write_shard(own, **settings)
    return pa.table({"shard": numbers})


def write_shard(
    documents: pa.Table,
    path: str,
    row_length: int,
    end_id: int,
    first_rows: dict[int, int],
    **learned: Any,
) -> None:
    """Write the file of a shard, whose documents are `documents`.

    `learned` are the keyword arguments of `pack_rows`.
    """
    shard = documents.column("shard")[0].as_py()
    rows = pack_rows(documents, row_length, end_id, first_rows[shard], **learned)
    row_groups.write_rows(rows, path_of(path, shard))


def path_of(output: str, shard: int) -> str:
    """Return the path of a shard's file in the output folder."""
    return f"{output.rstrip('/')}/data/shard-{shard:05}.parquet"


def exists(path: str) -> bool:
    """Return whether `path` exists, on any filesystem."""
    fs, root = filesystem.find(path)
    return bool(fs.exists(root))
