"""Shards of the training order: how many rows each fills, and one file per shard.

A document's shard is its hash modulo the number of shards, so it never depends on blocks or workers,
and reading shard after shard is already a random order of documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray import dataset
from safety_ray.errors import UserError
from safety_ray.pack.rows import pack_rows

COLUMNS = ["shard", "order", "id", "source_id", "recipe", "unsafe", "input_ids"]
"""What packing reads of an encoded document."""
_LARGEST = 2**31 - 1  # Arrow's offsets into a list column


@dataclass(slots=True)
class Counts:
    """Sums over encoded documents: documents by use, tokens by shard and by recipe, tags."""

    uses: Counter[str] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    recipes: Counter[str] = field(default_factory=Counter)
    tags: int = 0


def count(encoded: list[str]) -> Counts:
    """Add up the Parquet files of encoded documents; only what has tokens is named."""
    counts = Counts()
    for name in encoded:
        with fsspec.open(name) as file:
            rows = pq.read_table(file, columns=["use", "shard", "recipe", "tokens", "tags"])
        sums = rows.group_by(["use", "shard", "recipe"]).aggregate(
            [("tokens", "sum"), ("tags", "sum"), ([], "count_all")]
        )
        for row in sums.to_pylist():
            counts.uses[row["use"]] += row["count_all"]
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


def only_shards(batch: pa.Table, shards: list[int]) -> pa.Table:
    """The encoded documents of `shards` that are trained on."""
    here = pc.is_in(batch.column("shard"), value_set=pa.array(shards, pa.int32()))
    return batch.filter(pc.and_(here, pc.is_valid(batch.column("input_ids"))))


def write_shard(
    documents: pa.Table, path: str, row_length: int, end_id: int, first_rows: dict[int, int]
) -> pa.Table:
    """Write the file of the one shard that `documents` are, and return its number as a table."""
    shard = documents.column("shard")[0].as_py()
    write_whole(pack_rows(documents, row_length, end_id, first_rows[shard]), path_of(path, shard))
    return pa.table({"shard": [shard]})


def path_of(output: str, shard: int) -> str:
    return f"{output.rstrip('/')}/data/shard-{shard:05}.parquet"


def write_whole(rows: pa.Table, path: str) -> None:
    """Write beside, then rename, so that a file that is there is a whole one."""
    dataset.write_table(rows, f"{path}.part")
    fs, root = fsspec.core.url_to_fs(path)
    fs.mv(f"{root}.part", root)


def exists(path: str) -> bool:
    fs, root = fsspec.core.url_to_fs(path)
    return bool(fs.exists(root))
