"""web files → documents: read, checked, one row each, every id once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data

from safety_ray import artifact, dataset
from safety_ray.config import setting
from safety_ray.errors import UserError
from safety_ray.ingest import readers
from safety_ray.ingest.documents import OPTIONAL, mark_duplicates, row_schema, to_row

_BLOCK_ROWS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """Reads web documents from JSONL and Parquet files and writes them as clean rows."""

    input: str = setting("file, folder or glob; local or on any fsspec filesystem (s3://, gs://)")
    output: str = setting("folder to write")
    max_bytes: int = setting("a longer line or text is set aside", default=4_000_000)
    max_set_aside: float = setting("share of records set aside above which the job fails", default=0.5)
    shuffle_blocks: int = setting("parts for the search for duplicate ids", default=2)

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.shuffle_blocks < 1:
            raise UserError("max_bytes and shuffle_blocks must be at least 1.")
        if not 0 <= self.max_set_aside <= 1:
            raise UserError(f"max_set_aside={self.max_set_aside} must be between 0 and 1.")


def run(config: IngestConfig) -> dict[str, Any]:
    files = readers.list_files(config.input)
    for file in files:
        readers.check_parquet(file)
    keys = set().union(*(readers.first_keys(file) for file in files))
    if keys and "text" not in keys:
        raise UserError(f"'{config.input}' has no field 'text'; it has {', '.join(sorted(keys))}.")
    columns = row_schema([name for name in OPTIONAL.names if name in keys])
    out = artifact.begin(config.output, config, inputs={"input": config.input})
    if out.record is not None:
        return out.record
    dataset.start()

    def parse(batch: dict[str, Any]) -> Iterator[pa.Table]:
        for file in batch["item"]:
            rows: list[dict[str, Any]] = []
            for raw in readers.read(str(file), config.max_bytes):
                rows.append(to_row(raw, columns, config.max_bytes))
                if len(rows) == _BLOCK_ROWS:
                    yield pa.Table.from_pylist(rows, columns)
                    rows = []
            yield pa.Table.from_pylist(rows, columns)

    ds = ray.data.from_items(files, override_num_blocks=len(files)).map_batches(parse, batch_size=1)
    # All rows of an id meet in one block, so that every id but its first is found there.
    ds = ds.repartition(config.shuffle_blocks, keys=["id"])
    ds = ds.map_batches(mark_duplicates, batch_format="pyarrow", batch_size=None)
    counts = dataset.write(
        ds, out, label="ingest", total=None, max_set_aside=config.max_set_aside, resume_by=None
    )
    if counts.rows_out == 0:
        raise UserError(f"'{config.input}' holds no document: all {counts.set_aside} records were set aside.")
    return out.commit(
        rows_in=counts.rows_out + counts.set_aside,
        rows_out=counts.rows_out,
        set_aside=counts.set_aside,
        files=len(files),
    )
