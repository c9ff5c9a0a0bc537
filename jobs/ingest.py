"""web files → documents: one row for each document, with unique ids.

<output>/data/       documents
<output>/rejected/   records that are not documents, each with its reason
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from safety_ray.core import artifact, cluster, dataset, exchange, filesystem, partition, row_files
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.worker_deaths import BATCH_TRIES, Alone, Watch, together
from safety_ray.ingest import finished_files, readers, unique_ids
from safety_ray.ingest.columns import ColumnMap, check_fields, check_targets, has_field
from safety_ray.ingest.documents import OPTIONAL, TARGETS, row_schema, source_name, to_row
from safety_ray.ingest.html import Extraction

_REPORTS = "reports"
_KEYS_PER_BLOCK = 4_000_000
_REWRITE_TASKS = 256
_MAX_TASKS = 10_000
_FILE_TRIES = 20
_BLOCK_ROWS = 512
_BLOCK_CHARS = 1 << 25
_PAGES_PER_TASK = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """Read web documents from WARC, WET, HTML, JSONL and Parquet files, and write one row for each."""

    input: str = setting("file, folder or glob; local or on any fsspec filesystem (s3://, gs://, http://)")
    output: str = setting("folder to write", identity=False)
    format: readers.Format = setting("format of the files; auto: by their names", default="auto")
    columns: dict[str, str] = setting(
        "JSONL and Parquet: the field of each column, e.g. columns.text=content columns.url=meta.url",
        factory=dict,
    )
    extraction: Extraction = setting(
        "options of trafilatura, which extracts the main text; docs/ingest.md compares them",
        default="fast-recall",
    )
    max_bytes: int = setting(
        "maximum bytes of a line, record, page or text; longer ones are rejected", default=4_000_000
    )
    max_rejected: float = setting(
        "share of rejected records above which the job fails", default=0.5, identity=False
    )

    partition: str = setting(partition.SETTING, default="")

    def __post_init__(self) -> None:
        partition.check(self.partition)
        if self.max_bytes < 1:
            raise UserError(f"max_bytes={self.max_bytes} must be at least 1.")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"max_rejected={self.max_rejected} must be from 0 to 1.")
        check_targets(self.columns, TARGETS)


def ingest_documents(config: IngestConfig) -> dict[str, Any]:
    """Ingest `config.input`. Returns the record; a finished folder is skipped."""
    config = partition.of(config, "input")
    listed, others = readers.list_files_and_others(config.input, config.format)
    files = partition.select(config.input, listed)
    tables = [file for file in listed if readers.is_table(file, config.format)]
    check_columns(config, tables)
    # Any of many files may have one of these fields, and all partitions must have the same columns.
    columns = row_schema(OPTIONAL.names if tables else [])
    out = artifact.begin(config.output, config, inputs={"input": config.input}, temporary=(_REPORTS,))
    if out.record is not None:
        return out.record
    cluster.start()
    reports = out.sub(_REPORTS)
    if dataset.written(out) is None:
        write_documents(config, remaining_files(config, files, out, reports), columns, out, reports)
    reject_repeated_ids(unique_ids.stored_files(out.path), files)
    counts = dataset.stored(out.path)
    dataset.check_share(out.path, counts, config.max_rejected)
    if counts.rows_out == 0 and not config.partition:
        raise UserError(f"'{config.input}' has no document: all {counts.rejected} records were rejected.")
    read = finished_files.read_reports(reports)
    lost = check_bytes(config, files, read)
    return out.commit(
        rows_in=counts.rows_out + counts.rejected,
        rows_out=counts.rows_out,
        rejected=counts.rejected,
        files=len(files),
        files_passed_over=others,
        records_passed_over=finished_files.sum_counts(read, "ignored"),
        values_unreadable=finished_files.sum_counts(read, "unreadable"),
        fields_missing=finished_files.sum_counts(read, "missing"),
        pages_damaged=finished_files.sum_counts(read, "damaged").get("pages", 0),
        bytes_unreadable=lost,
        **partition.record("ingest", partial(readers.list_files, format=config.format), config.input),
    )


def check_bytes(config: IngestConfig, files: list[str], reports: dict[str, dict[str, Any]]) -> int:
    """Return the bytes of `files` that could not be read. Raises UserError if they exceed max_rejected."""
    counts = finished_files.sum_counts(reports, "bytes")
    lost, total = counts.get("lost", 0), sum(counts.values())
    if lost > config.max_rejected * total:
        total += finished_files.unreported_bytes(files, reports)
    if lost > config.max_rejected * total:
        raise UserError(
            f"{lost:,} of {total:,} bytes of '{config.input}' could not be read, more than "
            f"max_rejected={config.max_rejected}; the most common reason of rejected rows is: "
            f"{dataset.common_reason(config.output)}. See {config.output}/rejected."
        )
    return lost


def check_columns(config: IngestConfig, tables: list[str]) -> None:
    """Raise UserError if a sample of the JSONL and Parquet files `tables` lacks a field of the column map.

    All files are checked as they are read.
    """
    needed = set({"text": "text", **config.columns}.values())
    fields, number = readers.sample_fields(tables, config.format, needed) if tables else (set(), 0)
    if config.columns and not fields:
        raise UserError(f"columns is for JSONL and Parquet, and '{config.input}' has no such records.")
    if fields:
        where = (
            f"'{config.input}'"
            if number == len(tables)
            else f"a sample of {number} files of '{config.input}'"
        )
        check_fields(config.columns, fields, where)


def remaining_files(
    config: IngestConfig, files: list[str], out: artifact.Artifact, reports: str
) -> list[str]:
    """Return the input files to read: all, or those that an interrupted run has not finished.

    Removes the rows of the latter.
    """
    if not out.resumed:
        return files
    stored = finished_files.stored_tasks(out.path)
    remaining = finished_files.unfinished(files, config.format, stored, finished_files.read_reports(reports))
    tasks = finished_files.tasks_with(stored, remaining)
    if tasks:
        ray.data.from_items(tasks, override_num_blocks=min(len(tasks), _REWRITE_TASKS)).map_batches(
            finished_files.remove_rows, fn_kwargs={"output": out.path}, batch_size=1
        ).materialize()
    return remaining


def write_documents(
    config: IngestConfig, files: list[str], columns: pa.Schema, out: artifact.Artifact, reports: str
) -> None:
    """Read `files` and write their rows, beside those of finished files."""
    if not files:
        dataset.mark_written(out, "")
        return
    watch = Watch()

    def parse(batch: dict[str, Any]) -> Iterator[pa.Table]:
        for group in batch["files"]:
            for file in map(str, group):
                yield from read_watched(file, config, columns, reports, watch)

    tasks = [{"files": group} for group in group_files(files, config.format)]
    ds = ray.data.from_items(tasks, override_num_blocks=min(len(tasks), _MAX_TASKS)).map_batches(
        parse, batch_size=1
    )
    dataset.write(ds, out, label="ingest", total=None, max_rejected=1.0, resume_by=None, keep=True)


def reject_repeated_ids(stored: list[str], files: list[str]) -> None:
    """Reject all documents of an id except the first, by file and position, in the files `stored`.

    `files`: the input files that the documents are from.
    """
    if not stored:
        return
    items = [{unique_ids.STORED: number, "path": path} for number, path in enumerate(stored)]
    keys = ray.data.from_items(items, override_num_blocks=min(len(items), _MAX_TASKS)).map_batches(
        unique_ids.read_keys, fn_kwargs={"sources": sorted(set(map(source_name, files)))}, batch_size=1
    )
    fs, _ = filesystem.find(stored[0])
    blocks = row_files.count_rows(fs, stored) // _KEYS_PER_BLOCK + 1
    inputs = min(len(items), _MAX_TASKS)
    blocks_of_repeated = exchange.by_key(keys, unique_ids.HALF, blocks, unique_ids.repeated, inputs=inputs)
    repeated = exchange.on_driver_node(blocks_of_repeated)
    if repeated is not None:
        tasks = min(len(stored), _REWRITE_TASKS)
        exchange.by_key(
            repeated, unique_ids.STORED, tasks, unique_ids.reject_rows, inputs=blocks, stored=stored
        ).materialize()


def group_files(files: list[str], format: str) -> Iterator[list[str]]:
    """Group the files by task: one file for each task, or many HTML files."""
    pages: list[str] = []
    for file in files:
        if readers.kind_of(file, format) == "html":
            pages.append(file)
        else:
            yield [file]
    for start in range(0, len(pages), _PAGES_PER_TASK):
        yield pages[start : start + _PAGES_PER_TASK]


def read_watched(
    file: str, config: IngestConfig, columns: pa.Schema, reports: str, watch: Watch
) -> Iterator[pa.Table]:
    """Return the rows of one file. If it has ended worker processes, its records are announced one by one.

    Raises UserError if that did not find the record that ends them.
    """
    with watch.work(file) as deaths:
        if deaths >= _FILE_TRIES:
            raise UserError(
                f"reading '{file}' ended its worker process {deaths} times, for example for want of memory; "
                "split or remove the file, or use larger machines."
            )

        def alone(key: str) -> AbstractContextManager[str | None]:
            return watch.alone(f"{file} {key}")

        for table in read_tables(file, config, columns, reports, together if deaths < BATCH_TRIES else alone):
            watch.add_rows(file, len(table))
            yield table


def read_tables(
    file: str, config: IngestConfig, columns: pa.Schema, reports: str, alone: Alone = together
) -> Iterator[pa.Table]:
    """Return the rows of one file as small tables, so that Ray Data can stream them.

    Each record is announced to `alone`. At the end, the number of rows is reported in the folder `reports`.
    """
    column_map: ColumnMap = dict(config.columns) if readers.is_table(file, config.format) else {}
    missing: set[str] | None = None  # until a record is read
    ignored: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    size = total = lost = damaged = 0
    records = readers.read(
        file,
        config.max_bytes,
        config.format,
        config.extraction,
        ignored,
        alone,
        column_map.get("text", "text"),
    )
    for number, raw in enumerate(records):
        with alone(f"row {number}") as reason:
            raw = raw if reason is None else replace(raw, value=None, problem=reason)
            row = to_row(raw, columns, config.max_bytes, column_map, unreadable)
        if raw.value is not None:
            candidates = column_map.values() if missing is None else missing
            missing = {field for field in candidates if not has_field(raw.value, field)}
        rows.append(row)
        lost += raw.lost
        damaged += raw.damaged and row["rejected_reason"] is None
        size += len(row["text"] or "")
        if len(rows) == _BLOCK_ROWS or size > _BLOCK_CHARS:
            yield pa.Table.from_pylist(rows, columns)
            total += len(rows)
            rows, size = [], 0
    yield pa.Table.from_pylist(rows, columns)
    total += len(rows)
    if ignored or unreadable or damaged or lost or readers.kind_of(file, config.format) != "html":
        finished_files.write_report(
            reports,
            file,
            total,
            ignored,
            unreadable,
            missing=sorted(missing or ()),
            damaged=damaged,
            size=filesystem.size(file),
            lost=lost,
        )


if __name__ == "__main__":
    from jobs.cli import main

    main("ingest")
