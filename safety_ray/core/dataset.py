"""Read and write the rows of a stage with Ray Data; an interrupted write can be resumed.

A stage sets the column `rejected_reason` of a row that it could not process. `write` puts such rows in
`rejected/` and the others in `data/`, and counts both. Row checkpoints of Ray Data make an interrupted write
resume: a row is done when its write task ends. Where a row takes long, write tasks are small; elsewhere the
number of files follows the number of bytes.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from safety_ray.compat import ray_parquet
from safety_ray.core import (
    cluster,
    events,
    filesystem,
    foreign_files,
    parquet,
    partition,
    progress,
    resume,
    row_files,
)
from safety_ray.core.artifact import Artifact, read_record
from safety_ray.core.errors import UserError
from safety_ray.core.foreign_files import HIDDEN, Expected
from safety_ray.core.records import Column
from safety_ray.core.row_sink import REASON as REASON
from safety_ray.core.row_sink import row_sink

if TYPE_CHECKING:
    import ray.data

SOURCE = "rejected_source"
_CHECKPOINT = "_checkpoint"
_LLM_ROWS, _MAX_LLM_ROWS, _LLM_FILES = 256, 4096, 50_000
_MIN_BYTES, _MAX_BYTES = 1 << 19, 1 << 27
_BYTES_PER_ROW = 2
_REASONS = 100_000
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows written to `data/` and to `rejected/`."""

    rows_out: int
    rejected: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.rows_out + other.rows_out, self.rejected + other.rejected)


def files(path: str) -> list[str]:
    """Return the Parquet files of `path`: a finished output folder, another folder, or one file.

    Parts of an output folder that are not complete are left out. A `Share` has every n-th file. Raises
    UserError if there are no files.
    """
    fs, root = filesystem.find(path)
    record = read_record(path)
    roots = [root]
    if record is not None:
        folders = [f"{folder}/" for folder in record.get("partitions", [])] or [""]
        roots = [f"{root}/{folder}data" for folder in folders]
    if not fs.exists(roots[0]):
        raise UserError(f"'{path}' does not exist.")
    listed = sorted(name for folder in roots for name in fs.find(folder))
    incomplete = {posixpath.dirname(name) for name in listed if name.endswith(f"/{row_files.INCOMPLETE}")}
    names = [n for n in listed if n.endswith(".parquet") and posixpath.dirname(n) not in incomplete]
    if not names and incomplete:
        raise UserError(f"'{path}' is not finished; run the stage that writes it again first.")
    if not names:
        raise UserError(f"'{path}' has no Parquet rows (is every row in its rejected/?).")
    names = [fs.unstrip_protocol(name) if "://" in path else name for name in names]
    return partition.select(path, names)


def count(path: str) -> int:
    """Return the number of rows of a dataset, from the names of its files or their footers."""
    fs, _ = filesystem.find(path)
    return row_files.count_rows(fs, files(path))


def count_where(path: str, column: str, values: list[Any]) -> int:
    """Return the number of rows of the dataset at `path` whose `column` is one of `values`."""
    with parquet.readable(*files(path)):
        return int(rows_of(path).count_rows(filter=pads.field(column).isin(values)))


def count_groups(path: str, names: list[str]) -> Counter[tuple[Any, ...]]:
    """Count the rows of the dataset at `path` by their combination of values in the columns `names`."""
    counts: Counter[tuple[Any, ...]] = Counter()
    with parquet.readable(*files(path)):
        for batch in rows_of(path).to_batches(columns=names):
            groups = pa.Table.from_batches([batch]).group_by(names).aggregate([([], "count_all")])
            for row in groups.to_pylist():
                counts[tuple(row[name] for name in names)] += row["count_all"]
    return counts


def has_values(path: str, column: str) -> bool:
    """Return whether a column of the dataset at `path` has a value that is not null.

    Reads the footers of files, and columns without statistics, until the first value.
    """
    fs, _ = filesystem.find(path)

    def has(name: str) -> bool:
        with fs.open(name) as file, parquet.readable(name):
            table = pq.ParquetFile(file)
            if column not in table.schema_arrow.names:
                return False
            for n in range(table.num_row_groups):
                group = table.metadata.row_group(n)
                parts = (group.column(place) for place in range(group.num_columns))
                # A nested column has no part with its name alone.
                statistics = next((p.statistics for p in parts if p.path_in_schema == column), None)
                if statistics is not None and statistics.has_null_count:
                    nulls = statistics.null_count
                else:
                    nulls = table.read_row_group(n, columns=[column]).column(column).null_count
                if nulls < group.num_rows:
                    return True
        return False

    names = files(path)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return any(any(pool.map(has, names[n : n + _AT_ONCE])) for n in range(0, len(names), _AT_ONCE))


def has_files(folder: str) -> bool:
    """Return whether there are Parquet files in `folder`, which need not exist."""
    fs, root = filesystem.find(folder)
    return fs.exists(root) and any(name.endswith(".parquet") for name in fs.find(root))


def rows_of(path: str) -> pads.Dataset:
    """Return the dataset at `path`, to be scanned in this process; use it in `parquet.readable`."""
    fs, _ = filesystem.find(path)
    names = [name.split("://", 1)[-1] for name in files(path)]
    return pads.dataset(names, filesystem=fs, format="parquet", partitioning=None)


def columns(path: str) -> list[str]:
    """Return the names of the columns, without those that only rejected rows use."""
    return _visible(schema_of(path))


def _visible(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if name not in HIDDEN]


def schema_of(path: str) -> pa.Schema:
    """Return the schema of the first file of the dataset at `path`."""
    return foreign_files.read_schema(files(path)[0])


def check(path: str, needed: tuple[Column, ...]) -> None:
    """Raise UserError if the dataset at `path` lacks a needed column, or if one that must be text is not."""
    paths = files(path)
    foreign_files.check_types(foreign_files.read_schema(paths[0]), needed, f"'{path}'")
    foreign_files.check_sample(paths, Expected([], needed))


def read(path: str, needed: tuple[Column, ...]) -> ray.data.Dataset:
    """Return the dataset at `path` as a Ray Data stream. Raises UserError as `check` does.

    Columns that only rejected rows use are read if they are among the `needed` ones. Files that no stage has
    written must all have the same columns.
    """
    paths = files(path)
    schema = foreign_files.read_schema(paths[0]).remove_metadata()
    names = _visible(schema)
    hidden = [column.name for column in needed if column.name in HIDDEN]
    visible = tuple(column for column in needed if column.name not in hidden)
    foreign_files.check_types(schema, visible, f"'{path}'")
    expected = Expected(names, visible, schema)
    foreign_files.check_sample(paths, expected)
    return ray_parquet.read(paths, names + hidden, partial(foreign_files.readable, expected=expected))


def stream(paths: list[str], names: list[str] | None = None) -> ray.data.Dataset:
    """Return the rows of Parquet files as a Ray Data stream, with the columns `names` or all.

    A folder such as `split=train/` neither adds a column nor replaces the values of one.
    """
    context = partial(foreign_files.readable, expected=Expected(names or []))
    return ray_parquet.read(paths, names, context)


def table(path: str, names: list[str] | None = None) -> pa.Table:
    """Return the whole dataset in memory, sorted by id. For small datasets and tests."""
    with parquet.readable(*files(path)):
        rows = rows_of(path).to_table(columns=names or columns(path))
    return rows.sort_by("id") if "id" in rows.column_names else rows


def write(
    ds: ray.data.Dataset,
    out: Artifact,
    *,
    label: str,
    total: int | None,
    write_rows: int = 0,
    max_rejected: float = 0.5,
    resume_by: str | None = "id",
    keep: bool = False,
    read_as: str | None = None,
    part: str = "",
    waiting: str = progress.STARTING,
) -> Counts:
    """Execute `ds`, write its rows into `out` and show progress. Return the counts of written rows.

    A task writes at least `write_rows` rows to a file, or, if that is 0, at least `file_bytes(total)` bytes.
    Rows that an interrupted run has written are skipped at the source of `ds`, by the unique column
    `resume_by`; `read_as` is the name of that column in the source if it differs. With `keep`, `ds` has no
    rows that `out` has, and those of `out` stay. A stage that writes in several passes names each with
    `part`: its rows are in data/<part>/ and rejected/<part>/ and are counted separately. `waiting` is shown
    until the first row. Raises UserError if the share of rejected rows is above `max_rejected`.
    """
    fs, root = filesystem.find(out.path)
    counts = written(out, part)
    if counts is None:
        checkpoint = _prepare(fs, root, part, resume_by if cluster.has_room_to_skip() else None, keep)
        row_files.start(fs, root, part)
        sink = row_sink(out.path.rstrip("/"), part, rows=write_rows, max_bytes=file_bytes(total))
        ds.set_name(f"{events.stage()}-{label}".replace(" ", "-"))  # in Ray Data's metrics and logs
        context = ds.context  # a dataset keeps the context that it was created with
        if checkpoint:
            folder = out.sub(posixpath.basename(checkpoint))
            context.checkpoint_config = resume.checkpoints(str(resume_by), folder, read_as)
        try:
            counter = progress.RowCounter(*(out.sub(name, part) for name in ("data", "rejected")))
            with progress.watch(label, total, counter, waiting=waiting):
                ds.write_datasink(sink)
        finally:
            context.checkpoint_config = None
        names = row_files.remove_other_attempts(fs, row_files.listed(fs, root, part), sink.names)
        counts = _counts(fs, names)
        row_files.finish(fs, root, part)
        _remove(fs, f"{root}/{_CHECKPOINT}{part}")
    check_share(out.path, counts, max_rejected)
    return counts


def keep_rejected(batch: pa.Table) -> pa.Table:
    """Return rejected rows as rows that are kept."""
    return batch.drop_columns([REASON]) if REASON in batch.column_names else batch


def file_bytes(rows: int | None) -> int:
    """Return the bytes of Arrow data in a file of a dataset of `rows` rows, if known.

    A file has up to 128 MB, and at most about a thousandth of the dataset, which is what a failure repeats.
    """
    if rows is None:
        return _MAX_BYTES
    return max(_MIN_BYTES, min(_MAX_BYTES, _BYTES_PER_ROW * rows))


def llm_rows(requested: int, total: int | None) -> int:
    """Return the rows in a write task of a language model: what a failure repeats.

    These are `requested` rows, or, if that is 0, 256, and up to 4,096 where the dataset would otherwise have
    more than 50,000 files.
    """
    return requested or max(_LLM_ROWS, min(_MAX_LLM_ROWS, (total or 0) // _LLM_FILES))


def _prepare(fs: Any, root: str, part: str, resume_by: str | None, keep: bool) -> str | None:
    """Remove what an interrupted run did not finish. Returns the checkpoint folder, or None without one."""
    checkpoint = f"{root}/{_CHECKPOINT}{part}"
    if resume_by is None and not keep:
        for folder in (checkpoint, *row_files.folders(root, part)):
            _remove(fs, folder)
    elif not keep:
        row_files.remove_unfinished(fs, root, part, checkpoint)
    return checkpoint if resume_by else None


def _remove(fs: Any, folder: str) -> None:
    if fs.exists(folder):
        fs.rm(folder, recursive=True)


def written(out: Artifact, part: str = "") -> Counts | None:
    """Return the counts of `part` of `out`, or None if its `write` has not ended."""
    fs, root = filesystem.find(out.path)
    return _counts(fs, row_files.listed(fs, root, part)) if row_files.is_complete(fs, root, part) else None


def stored(path: str) -> Counts:
    """Return the counts of all rows in an output folder, as they are now."""
    fs, root = filesystem.find(path)
    return _counts(fs, row_files.listed(fs, root, ""))


def mark_written(out: Artifact, part: str) -> None:
    """Mark `part` of `out` as written, without rows."""
    fs, root = filesystem.find(out.path)
    row_files.finish(fs, root, part)


def with_rows(out: Artifact, parts: tuple[str, ...]) -> list[str]:
    """Return the folders of `parts`, data and rejected, in which rows have been written."""
    folders = []
    for part in parts:
        counts = written(out, part) or Counts(0, 0)
        rows = {row_files.DATA: counts.rows_out, row_files.REJECTED: counts.rejected}
        folders += [out.sub(folder, part) for folder, number in rows.items() if number]
    return folders


def drop_rejected(out: Artifact, part: str) -> None:
    """Delete the rejected rows of `part`, which a later part has written again."""
    fs, root = filesystem.find(out.path)
    for name in row_files.listed(fs, root, part):
        if row_files.is_rejected(name):
            fs.rm(name)


def check_share(path: str, counts: Counts, max_rejected: float) -> None:
    """Raise UserError if the share of rejected rows is above `max_rejected`."""
    total = counts.rows_out + counts.rejected
    if total and counts.rejected / total > max_rejected:
        raise UserError(
            f"{counts.rejected:,} of {total:,} rows were rejected, more than max_rejected={max_rejected}; "
            f"the most common reason is: {common_reason(path)}. See {posixpath.join(path, 'rejected')}."
        )


def write_table(rows: pa.Table, path: str) -> None:
    """Write a small table as one Parquet file and create its folder."""
    fs, root = filesystem.find(path)
    fs.makedirs(posixpath.dirname(root), exist_ok=True)
    with fs.open(root, "wb") as file:
        pq.write_table(rows, file)


def _counts(fs: Any, names: list[str]) -> Counts:
    rejected = [name for name in names if row_files.is_rejected(name)]
    kept = set(names).difference(rejected)
    return Counts(row_files.count_rows(fs, kept), row_files.count_rows(fs, rejected))


def common_reason(path: str) -> str:
    """Return the most common reason among the first rows in `rejected/`; "unknown" if there are none."""
    folder = posixpath.join(path, row_files.REJECTED)
    counts: Counter[str] = Counter()
    if has_files(folder):
        with parquet.readable(*files(folder)):
            for reason in rows_of(folder).head(_REASONS, columns=[REASON]).column(REASON).to_pylist():
                counts[str(reason)] += 1
    return counts.most_common(1)[0][0] if counts else "unknown"
