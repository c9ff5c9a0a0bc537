"""web files → documents: read, checked, one row each, every id once."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data

from safety_ray.core import artifact, cluster, dataset, filesystem
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash
from safety_ray.ingest import readers
from safety_ray.ingest.columns import ColumnMap, check_fields, check_targets
from safety_ray.ingest.documents import OPTIONAL, TARGETS, mark_duplicates, row_schema, to_row
from safety_ray.ingest.html import Extraction

_BLOCK_ROWS = 512
_BLOCK_BYTES = 1 << 25
_PAGES_A_TASK = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """Reads web documents from WARC, WET, HTML, JSONL and Parquet files and writes them as clean rows."""

    input: str = setting("file, folder or glob; local or on any fsspec filesystem (s3://, gs://, http://)")
    output: str = setting("folder to write", identity=False)
    format: readers.Format = setting("what the files are; auto: what their names say", default="auto")
    columns: dict[str, str] = setting(
        "JSONL and Parquet: the fields to read columns from, as columns.text=content, columns.url=meta.url",
        factory=dict,
    )
    extraction: Extraction = setting(
        "how trafilatura finds the main text of a page; docs/ingest.md compares them", default="fast-recall"
    )
    max_bytes: int = setting("a longer line, record, page or text is rejected", default=4_000_000)
    max_rejected: float = setting(
        "share of records rejected above which the job fails", default=0.5, identity=False
    )
    shuffle_blocks: int = setting("parts for the search for duplicate ids", default=2, identity=False)

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.shuffle_blocks < 1:
            raise UserError("max_bytes and shuffle_blocks must be at least 1.")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"max_rejected={self.max_rejected} must be between 0 and 1.")
        check_targets(self.columns, TARGETS)


def ingest_documents(config: IngestConfig) -> dict[str, Any]:
    files, others = readers.list_files_and_others(config.input, config.format)
    found = readers.fields(files, config.format)
    if config.columns and not found:
        raise UserError(f"columns is for JSONL and Parquet, and '{config.input}' holds no record of them.")
    if found:
        check_fields(config.columns, found, config.input)
    wanted = [name for name in OPTIONAL.names if name in found or name in config.columns]
    columns = row_schema(wanted)
    out = artifact.begin(config.output, config, inputs={"input": config.input})
    if out.record is not None:
        return out.record
    cluster.start()
    counts_folder = out.sub("ignored")

    def parse(batch: dict[str, Any]) -> Iterator[pa.Table]:
        for group in batch["files"]:
            for file in map(str, group):
                yield from _tables(file, config, columns, counts_folder)

    tasks = [{"files": group} for group in _tasks(files, config.format)]
    ds = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(parse, batch_size=1)
    # All rows of an id meet in one block, so that every id but its first is found there.
    ds = ds.repartition(config.shuffle_blocks, keys=["id"])
    ds = ds.map_batches(mark_duplicates, batch_format="pyarrow", batch_size=None)
    counts = dataset.write(
        ds, out, label="ingest", total=None, max_rejected=config.max_rejected, resume_by=None
    )
    if counts.rows_out == 0:
        raise UserError(f"'{config.input}' holds no document: all {counts.rejected} records were rejected.")
    record = out.commit(
        rows_in=counts.rows_out + counts.rejected,
        rows_out=counts.rows_out,
        rejected=counts.rejected,
        files=len(files),
        files_passed_over=others,
        records_passed_over=_sum(counts_folder),
    )
    _remove(counts_folder)
    return record


def _tasks(files: list[str], format: str) -> Iterator[list[str]]:
    """The files that one task reads: one, or many where each holds a single page."""
    pages: list[str] = []
    for file in files:
        if readers.kind_of(file, format) == "html":
            pages.append(file)
        else:
            yield [file]
    for start in range(0, len(pages), _PAGES_A_TASK):
        yield pages[start : start + _PAGES_A_TASK]


def _tables(file: str, config: IngestConfig, columns: pa.Schema, counts_folder: str) -> Iterator[pa.Table]:
    """The rows of one file, in tables small enough for many of them to be under way."""
    table = readers.kind_of(file, config.format) in ("jsonl", "parquet")
    column_map: ColumnMap = dict(config.columns) if table else {}
    ignored: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    size = 0
    for raw in readers.read(file, config.max_bytes, config.format, config.extraction, ignored):
        row = to_row(raw, columns, config.max_bytes, column_map)
        rows.append(row)
        size += len(row["text"] or "")
        if len(rows) == _BLOCK_ROWS or size > _BLOCK_BYTES:
            yield pa.Table.from_pylist(rows, columns)
            rows, size = [], 0
    yield pa.Table.from_pylist(rows, columns)
    if ignored:  # in a file of its own, so that a task that is run again counts nothing twice
        fs, root = filesystem.find(f"{counts_folder}/{stable_hash(file):016x}.json")
        fs.makedirs(posixpath.dirname(root), exist_ok=True)
        fs.pipe_file(root, json.dumps(ignored).encode())


def _sum(folder: str) -> dict[str, int]:
    fs, root = filesystem.find(folder)
    total: Counter[str] = Counter()
    for name in fs.find(root) if fs.exists(root) else ():
        total.update(json.loads(fs.cat_file(name)))
    return dict(sorted(total.items()))


def _remove(folder: str) -> None:
    fs, root = filesystem.find(folder)
    if fs.exists(root):
        fs.rm(root, recursive=True)


if __name__ == "__main__":
    from jobs.cli import main

    main("ingest")
