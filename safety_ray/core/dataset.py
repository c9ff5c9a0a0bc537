"""Read and write the rows of a stage with Ray Data; an interrupted write can be resumed.

A stage sets the column `rejected_reason` of a row that it could not process. `write` puts such rows in
`rejected/` and the others in `data/`, and counts both. Row checkpoints of Ray Data make an interrupted write
resume: a row is done when its write task ends, so write tasks are kept small.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from safety_ray.core import cluster, filesystem, progress
from safety_ray.core.artifact import Artifact, read_record
from safety_ray.core.errors import UserError
from safety_ray.core.records import Column, require

if TYPE_CHECKING:
    import ray.data

REASON, SOURCE = "rejected_reason", "rejected_source"
_HIDDEN = (REASON, SOURCE, "set_aside", "set_aside_source")  # the last two: names in earlier versions
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.null())  # null: no row has a value
_OUTCOME = "outcome"
_CHECKPOINT = "_checkpoint"


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows written to `data/` and to `rejected/`."""

    rows_out: int
    rejected: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.rows_out + other.rows_out, self.rejected + other.rejected)


def files(path: str) -> list[str]:
    """Return the Parquet files of `path`: a finished output folder, another folder, or one file."""
    fs, root = filesystem.find(path)
    if read_record(path) is not None:
        root = f"{root}/data"
    if not fs.exists(root):
        raise UserError(f"'{path}' does not exist.")
    names = sorted(name for name in fs.find(root) if name.endswith(".parquet"))
    if not names:
        raise UserError(f"'{path}' has no Parquet rows (is every row in its rejected/?).")
    return [fs.unstrip_protocol(name) if "://" in path else name for name in names]


def count(path: str) -> int:
    """Return the number of rows of a dataset, from its Parquet footers."""
    fs, _ = filesystem.find(path)
    return _rows_in(fs, files(path))


def count_where(path: str, column: str, values: list[Any]) -> int:
    """Return the number of rows of the dataset at `path` whose `column` is one of `values`."""
    return int(_rows_of(path).count_rows(filter=pads.field(column).isin(values)))


def count_groups(path: str, names: list[str]) -> Counter[tuple[Any, ...]]:
    """Count the rows of the dataset at `path` by their combination of values in the columns `names`."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for batch in _rows_of(path).to_batches(columns=names):
        groups = pa.Table.from_batches([batch]).group_by(names).aggregate([([], "count_all")])
        for row in groups.to_pylist():
            counts[tuple(row[name] for name in names)] += row["count_all"]
    return counts


def _rows_of(path: str) -> pads.Dataset:
    fs, _ = filesystem.find(path)
    names = [name.split("://", 1)[-1] for name in files(path)]
    return pads.dataset(names, filesystem=fs, format="parquet", partitioning=None)


def columns(path: str) -> list[str]:
    """Return the names of the columns, without those that only rejected rows use."""
    with fsspec.open(files(path)[0]) as file:
        return [name for name in pq.read_schema(file).names if name not in _HIDDEN]


def check(path: str, needed: tuple[Column, ...]) -> None:
    """Raise UserError if the dataset at `path` lacks a needed column, or if one that must be text is not."""
    with fsspec.open(files(path)[0]) as file:
        schema = pq.read_schema(file)
    require(needed, [name for name in schema.names if name not in _HIDDEN], f"'{path}'")
    for column in needed:
        kind = schema.field(column.name).type
        stored = kind.value_type if pa.types.is_dictionary(kind) else kind
        if column.type == pa.string() and stored not in _TEXT_TYPES:
            raise UserError(
                f"the column '{column.name}' of '{path}' must be text, not {kind}; convert it to strings, "
                "or run the ingest job on these files first, which does so."
            )


def read(path: str, needed: tuple[Column, ...]) -> ray.data.Dataset:
    """Return the dataset at `path` as a Ray Data stream. Raises UserError as `check` does.

    Columns that only rejected rows use are read if they are among the `needed` ones.
    """
    names = columns(path)
    hidden = [column.name for column in needed if column.name in _HIDDEN]
    check(path, tuple(column for column in needed if column.name not in hidden))
    return stream(files(path), names + hidden)


def stream(paths: list[str], names: list[str] | None = None) -> ray.data.Dataset:
    """Return the rows of Parquet files as a Ray Data stream, with the columns `names` or all.

    A folder such as `split=train/` neither adds a column nor replaces the values of one.
    """
    import ray.data

    return ray.data.read_parquet(paths, columns=names, partitioning=None)


def table(path: str, names: list[str] | None = None) -> pa.Table:
    """Return the whole dataset in memory, sorted by id. For small datasets and tests."""
    rows = _rows_of(path).to_table(columns=names or columns(path))
    return rows.sort_by("id") if "id" in rows.column_names else rows


def write(
    ds: ray.data.Dataset,
    out: Artifact,
    *,
    label: str,
    total: int | None,
    write_rows: int = 256,
    max_rejected: float = 0.5,
    resume_by: str | None = "id",
    read_as: str | None = None,
    part: str = "",
    waiting: str = progress.STARTING,
) -> Counts:
    """Execute `ds`, write its rows into `out` and show progress. Return the counts of written rows.

    Rows that an interrupted run has written are skipped at the source of `ds`, by the unique column
    `resume_by`; `read_as` is the name of that column in the source if it differs. A stage that writes in
    several passes names each with `part`: its rows are in data/<part>/ and rejected/<part>/ and are counted
    separately. `waiting` is shown until the first row. Raises UserError if the share of rejected rows is
    above `max_rejected`.
    """
    from ray.data.checkpoint import CheckpointConfig

    rows, checkpoint = out.sub(f"rows{part}"), out.sub(f"{_CHECKPOINT}{part}")
    context = ds.context  # a dataset keeps the context that it was created with
    fs, root = filesystem.find(out.path)
    counts = written(out, part)
    if counts is None:
        if not cluster.has_room_to_skip():
            resume_by = None
        if resume_by is None:  # remove the rows of an interrupted run
            for leftover in (f"{root}/rows{part}", *_folders(root, part)):
                if fs.exists(leftover):
                    fs.rm(leftover, recursive=True)
        context.checkpoint_config = (
            CheckpointConfig(
                resume_by,
                checkpoint,
                delete_checkpoint_on_success=False,
                checkpoint_filter_cls=_filter_on(read_as) if read_as else None,
            )
            if resume_by
            else None
        )
        try:
            ready = ds.map_batches(_mark_outcome, batch_format="pyarrow", batch_size=write_rows)
            with progress.watch(label, total, progress.RowCounter(rows), waiting=waiting):
                ready.write_parquet(rows, partition_cols=[_OUTCOME], mode="append")
        finally:
            context.checkpoint_config = None
        _finalize(fs, root, part)
        counts = _counts(fs, root, part)
    check_share(out.path, counts, max_rejected)
    return counts


def written(out: Artifact, part: str = "") -> Counts | None:
    """Return the counts of `part` of `out`, or None if its `write` has not ended."""
    fs, root = filesystem.find(out.path)
    return _counts(fs, root, part) if all(map(fs.exists, _folders(root, part))) else None


def mark_written(out: Artifact, part: str) -> None:
    """Mark `part` of `out` as written, without rows."""
    fs, root = filesystem.find(out.path)
    for folder in _folders(root, part):
        fs.makedirs(folder, exist_ok=True)


def check_share(path: str, counts: Counts, max_rejected: float) -> None:
    """Raise UserError if the share of rejected rows is above `max_rejected`."""
    total = counts.rows_out + counts.rejected
    if total and counts.rejected / total > max_rejected:
        raise UserError(
            f"{counts.rejected:,} of {total:,} rows were rejected, more than max_rejected={max_rejected}; "
            f"the most common reason is: {_common_reason(path)}. See {posixpath.join(path, 'rejected')}."
        )


def write_table(rows: pa.Table, path: str) -> None:
    """Write a small table as one Parquet file and create its folder."""
    fs, root = filesystem.find(path)
    fs.makedirs(posixpath.dirname(root), exist_ok=True)
    with fs.open(root, "wb") as file:
        pq.write_table(rows, file)


def _mark_outcome(batch: pa.Table) -> pa.Table:
    """Add the column that `write` partitions by: "data" or "rejected"."""
    reasons = (
        batch.column(REASON).cast(pa.string())
        if REASON in batch.column_names
        else pa.nulls(len(batch), pa.string())
    )
    accepted = reasons.is_null().to_pylist()
    outcome = pa.array(["data" if ok else "rejected" for ok in accepted], pa.string())
    if REASON in batch.column_names:
        batch = batch.drop_columns([REASON])
    return batch.append_column(REASON, reasons).append_column(_OUTCOME, outcome)


def _filter_on(column: str) -> Any:
    """Return Ray's checkpoint filter for a column that has another name at the source."""
    from ray.data.checkpoint import NumpyArrayBasedCheckpointFilter

    class ReadAs(NumpyArrayBasedCheckpointFilter):  # type: ignore[misc]
        def filter_rows_for_block(self, block: Any) -> Any:
            self.id_column = column
            return super().filter_rows_for_block(block)

    return ReadAs


def _finalize(fs: Any, root: str, part: str) -> None:
    """Move the rows of both outcomes to their final folders; safe to repeat after an interruption."""
    for name, folder in zip(("data", "rejected"), _folders(root, part), strict=True):
        written = f"{root}/rows{part}/{_OUTCOME}={name}"
        if fs.exists(written):
            fs.makedirs(f"{root}/{name}" if part else root, exist_ok=True)
            if isinstance(fs, LocalFileSystem):
                fs.mv(written, folder, recursive=True)
            else:  # fsspec cannot move folders on object stores; the copied files are removed below
                for file in fs.find(written):
                    if not file.endswith("/"):  # pyarrow's placeholder of a folder
                        fs.copy(file, f"{folder}/{posixpath.basename(file)}")
        fs.makedirs(folder, exist_ok=True)
    for leftover in (f"rows{part}", f"{_CHECKPOINT}{part}"):
        if fs.exists(f"{root}/{leftover}"):
            fs.rm(f"{root}/{leftover}", recursive=True)


def _counts(fs: Any, root: str, part: str) -> Counts:
    rows_out, rejected = (_rows_in(fs, fs.find(folder)) for folder in _folders(root, part))
    return Counts(rows_out, rejected)


def _folders(root: str, part: str) -> list[str]:
    """Return the folders of a part: data, rejected."""
    return [f"{root}/{name}/{part}".rstrip("/") for name in ("data", "rejected")]


def _rows_in(fs: Any, names: list[str]) -> int:
    """Return the number of rows of the Parquet files among `names`, from their footers."""
    total = 0
    for name in names:
        if name.endswith(".parquet"):
            with fs.open(name) as file:
                total += pq.read_metadata(file).num_rows
    return total


def _common_reason(path: str) -> str:
    fs, root = filesystem.find(path)
    counts: dict[str, int] = {}
    for name in fs.find(f"{root}/rejected"):
        with fs.open(name) as file:
            for reason in pq.read_table(file, columns=[REASON], partitioning=None).column(REASON).to_pylist():
                counts[reason] = counts.get(reason, 0) + 1
    return max(counts, key=lambda reason: counts[reason]) if counts else "unknown"
