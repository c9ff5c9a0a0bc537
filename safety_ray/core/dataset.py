"""Rows in and out of a stage through Ray Data: read a folder, write one that can be resumed.

A stage marks a row that it could not process with a reason in the column `rejected_reason`; `write`
puts such rows in `rejected/` and the others in `data/`, and counts both. Ray Data's row
checkpoints make a broken write go on where it stopped: a row counts as done when the write task
that holds it ends, so write tasks are kept small.
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
_OUTCOME = "outcome"
_CHECKPOINT = "_checkpoint"


@dataclass(frozen=True, slots=True)
class Counts:
    rows_out: int
    rejected: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.rows_out + other.rows_out, self.rejected + other.rejected)


def files(path: str) -> list[str]:
    """The Parquet files of a finished stage's folder, of any folder, or the one file `path`."""
    fs, root = filesystem.find(path)
    if read_record(path) is not None:
        root = f"{root}/data"
    if not fs.exists(root):
        raise UserError(f"'{path}' does not exist.")
    found = sorted(n for n in fs.find(root) if n.endswith(".parquet"))
    if not found:
        raise UserError(f"'{path}' holds no Parquet rows (is every row in its rejected/?).")
    return [fs.unstrip_protocol(n) if "://" in path else n for n in found]


def count(path: str) -> int:
    """Rows in a dataset, from the Parquet footers."""
    fs, _ = filesystem.find(path)
    return _rows_in(fs, files(path))


def count_where(path: str, column: str, values: list[Any]) -> int:
    """Rows of the dataset at `path` whose `column` is one of `values`; nothing else is read."""
    return int(_rows_of(path).count_rows(filter=pads.field(column).isin(values)))


def groups(path: str, names: list[str]) -> Counter[tuple[Any, ...]]:
    """How many rows of the dataset at `path` have each combination of values in the columns `names`."""
    found: Counter[tuple[Any, ...]] = Counter()
    for batch in _rows_of(path).to_batches(columns=names):
        counted = pa.Table.from_batches([batch]).group_by(names).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            found[tuple(row[name] for name in names)] += row["count_all"]
    return found


def _rows_of(path: str) -> pads.Dataset:
    fs, _ = filesystem.find(path)
    return pads.dataset([n.split("://", 1)[-1] for n in files(path)], filesystem=fs, format="parquet")


def columns(path: str) -> list[str]:
    """Return the names of the columns, without those that only rejected rows use."""
    with fsspec.open(files(path)[0]) as file:
        return [name for name in pq.read_schema(file).names if name not in _HIDDEN]


def read(path: str, needed: tuple[Column, ...]) -> ray.data.Dataset:
    """Return the dataset at `path` as a Ray Data stream. Raises UserError if a needed column is missing.

    Columns that only rejected rows use are read if they are among the `needed` ones.
    """
    import ray.data

    found = columns(path)
    hidden = [column.name for column in needed if column.name in _HIDDEN]
    require(tuple(c for c in needed if c.name not in hidden), found, f"'{path}'")
    return ray.data.read_parquet(files(path), columns=found + hidden)


def table(path: str, names: list[str] | None = None) -> pa.Table:
    """The whole dataset in memory, sorted by id: for small ones, and for tests."""
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
) -> Counts:
    """Run `ds` and write its rows into `out`, showing progress; returns what was written.

    `resume_by` is the column whose values are unique and already known where `ds` reads: rows
    that an earlier, broken run wrote are skipped there; `read_as` is that column's name there,
    where it is another one. A stage that writes in several passes names each with `part`: its rows
    lie in data/<part>/ and rejected/<part>/ and are counted alone. Raises UserError where the
    share of rows rejected is above `max_rejected`.
    """
    from ray.data.checkpoint import CheckpointConfig

    rows, checkpoint = out.sub(f"rows{part}"), out.sub(f"{_CHECKPOINT}{part}")
    context = ds.context  # a dataset keeps the settings it was made with; the current ones come too late
    fs, root = filesystem.find(out.path)
    counts = written(out, part)
    if counts is None:
        if not cluster.has_room_to_skip():
            resume_by = None
        if resume_by is None:  # what a broken run left, of a half-settled one too
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
            with progress.watch(label, total, progress.RowCounter(rows)):
                ready.write_parquet(rows, partition_cols=[_OUTCOME], mode="append")
        finally:
            context.checkpoint_config = None
        _settle(fs, root, part)
        counts = _counts(fs, root, part)
    check_share(out.path, counts, max_rejected)
    return counts


def written(out: Artifact, part: str = "") -> Counts | None:
    """What a `write` that ended has left in `part` of `out`; None where none has ended."""
    fs, root = filesystem.find(out.path)
    return _counts(fs, root, part) if all(map(fs.exists, _folders(root, part))) else None


def mark_written(out: Artifact, part: str) -> None:
    """Mark `part` of `out` as written, without rows."""
    fs, root = filesystem.find(out.path)
    for folder in _folders(root, part):
        fs.makedirs(folder, exist_ok=True)


def check_share(path: str, counts: Counts, most: float) -> None:
    """UserError where more than the share `most` of all rows was rejected."""
    total = counts.rows_out + counts.rejected
    if total and counts.rejected / total > most:
        raise UserError(
            f"{counts.rejected:,} of {total:,} rows were rejected, more than max_rejected={most}; "
            f"the most common reason is: {_common_reason(path)}. See {posixpath.join(path, 'rejected')}."
        )


def write_table(rows: pa.Table, path: str) -> None:
    """Write one small table as a Parquet file, making its folder."""
    fs, root = filesystem.find(path)
    fs.makedirs(posixpath.dirname(root), exist_ok=True)
    with fs.open(root, "wb") as file:
        pq.write_table(rows, file)


def _mark_outcome(batch: pa.Table) -> pa.Table:
    reasons = (
        batch.column(REASON).cast(pa.string())
        if REASON in batch.column_names
        else pa.nulls(len(batch), pa.string())
    )
    kept = reasons.is_null().to_pylist()
    outcome = pa.array(["data" if k else "rejected" for k in kept], pa.string())
    if REASON in batch.column_names:
        batch = batch.drop_columns([REASON])
    return batch.append_column(REASON, reasons).append_column(_OUTCOME, outcome)


def _filter_on(column: str) -> Any:
    """Ray's checkpoint filter, for a column that has another name where rows are read."""
    from ray.data.checkpoint import NumpyArrayBasedCheckpointFilter

    class ReadAs(NumpyArrayBasedCheckpointFilter):  # type: ignore[misc]
        def filter_rows_for_block(self, block: Any) -> Any:
            self.id_column = column
            return super().filter_rows_for_block(block)

    return ReadAs


def _settle(fs: Any, root: str, part: str) -> None:
    """Give the two outcomes their folders' names; safe to repeat after an interruption."""
    for name, settled in zip(("data", "rejected"), _folders(root, part), strict=True):
        written = f"{root}/rows{part}/{_OUTCOME}={name}"
        if fs.exists(written):
            fs.makedirs(f"{root}/{name}" if part else root, exist_ok=True)
            if isinstance(fs, LocalFileSystem):
                fs.mv(written, settled, recursive=True)
            else:  # fsspec moves no folders on object stores; what is copied is removed below
                for old in fs.find(written):
                    if not old.endswith("/"):  # pyarrow's mark of a folder
                        fs.copy(old, f"{settled}/{posixpath.basename(old)}")
        fs.makedirs(settled, exist_ok=True)
    for leftover in (f"rows{part}", f"{_CHECKPOINT}{part}"):
        if fs.exists(f"{root}/{leftover}"):
            fs.rm(f"{root}/{leftover}", recursive=True)


def _counts(fs: Any, root: str, part: str) -> Counts:
    kept, rejected = (_rows_in(fs, fs.find(folder)) for folder in _folders(root, part))
    return Counts(kept, rejected)


def _folders(root: str, part: str) -> list[str]:
    """Where the two outcomes of a part lie: kept, rejected."""
    return [f"{root}/{name}/{part}".rstrip("/") for name in ("data", "rejected")]


def _rows_in(fs: Any, names: list[str]) -> int:
    """Rows of the Parquet files among `names`, from their footers."""
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
            for reason in pq.read_table(file, columns=[REASON]).column(REASON).to_pylist():
                counts[reason] = counts.get(reason, 0) + 1
    return max(counts, key=lambda r: counts[r]) if counts else "unknown"
