"""Rows in and out of a stage through Ray Data: read a folder, write one that can be resumed.

A stage marks a row that it could not process with a reason in the column `set_aside`; `write`
puts such rows in `set_aside/` and the others in `data/`, and counts both. Ray Data's row
checkpoints make a broken write go on where it stopped: a row counts as done when the write task
that holds it ends, so write tasks are kept small.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from safety_ray import progress
from safety_ray.artifact import Artifact, read_record
from safety_ray.errors import UserError
from safety_ray.records import Column, require

if TYPE_CHECKING:
    import ray.data

REASON = "set_aside"
_OUTCOME = "outcome"
_CHECKPOINT = "_checkpoint"


@dataclass(frozen=True, slots=True)
class Counts:
    rows_out: int
    set_aside: int


def start() -> None:
    """Join the cluster named by RAY_ADDRESS (`ray job submit` sets it), or start Ray on this machine."""
    import logging

    import ray

    if ray.is_initialized():
        return
    # Workers import this package from the working directory of the driver: say where that is.
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    ray.init(
        logging_level=logging.ERROR,
        log_to_driver=False,
        include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def files(path: str) -> list[str]:
    """The Parquet files of a finished stage's folder, of any folder, or the one file `path`."""
    fs, root = fsspec.core.url_to_fs(path)
    if read_record(path) is not None:
        root = f"{root}/data"
    if not fs.exists(root):
        raise UserError(f"'{path}' does not exist.")
    found = sorted(n for n in fs.find(root) if n.endswith(".parquet"))
    if not found:
        raise UserError(f"'{path}' holds no Parquet rows (is every row in its set_aside/?).")
    return [fs.unstrip_protocol(n) if "://" in path else n for n in found]


def count(path: str) -> int:
    """Rows in a dataset, from the Parquet footers."""
    total = 0
    for name in files(path):
        with fsspec.open(name) as file:
            total += pq.read_metadata(file).num_rows
    return total


def columns(path: str) -> list[str]:
    with fsspec.open(files(path)[0]) as file:
        return [c for c in pq.read_schema(file).names if c != REASON]


def read(path: str, needed: tuple[Column, ...]) -> ray.data.Dataset:
    """The dataset at `path` as a Ray Data stream; UserError where a needed column is missing."""
    import ray.data

    found = columns(path)
    require(needed, found, f"'{path}'")
    return ray.data.read_parquet(files(path), columns=found)


def table(path: str, names: list[str] | None = None) -> pa.Table:
    """The whole dataset in memory, sorted by id: for small ones, and for tests."""
    fs, _ = fsspec.core.url_to_fs(path)
    rows = pads.dataset(
        [n.split("://", 1)[-1] for n in files(path)], filesystem=fs, format="parquet"
    ).to_table(columns=names or columns(path))
    return rows.sort_by("id") if "id" in rows.column_names else rows


def write(
    ds: ray.data.Dataset,
    out: Artifact,
    *,
    label: str,
    total: int | None,
    write_rows: int = 256,
    max_set_aside: float = 0.5,
    resume_by: str | None = "id",
) -> Counts:
    """Run `ds` and write its rows into `out`, showing progress; returns what was written.

    `resume_by` is the column whose values are unique and already known where `ds` reads: rows
    that an earlier, broken run wrote are skipped there. Raises UserError where the share of rows
    set aside is above `max_set_aside`.
    """
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    rows, context = out.sub("rows"), ray.data.DataContext.get_current()
    fs, root = fsspec.core.url_to_fs(out.path)
    if not (fs.exists(f"{root}/data") and fs.exists(f"{root}/set_aside")):
        if resume_by is None and fs.exists(f"{root}/rows"):
            fs.rm(f"{root}/rows", recursive=True)
        context.checkpoint_config = (
            CheckpointConfig(resume_by, out.sub(_CHECKPOINT), delete_checkpoint_on_success=False)
            if resume_by
            else None
        )
        try:
            ready = ds.map_batches(_mark_outcome, batch_format="pyarrow", batch_size=write_rows)
            with progress.watch(label, total, progress.RowCounter(rows)):
                ready.write_parquet(rows, partition_cols=[_OUTCOME], mode="append")
        finally:
            context.checkpoint_config = None
        _settle(fs, root)
    counts = Counts(_count_in(fs, f"{root}/data"), _count_in(fs, f"{root}/set_aside"))
    check_share(out.path, counts, max_set_aside)
    return counts


def check_share(path: str, counts: Counts, most: float) -> None:
    """UserError where more than the share `most` of all rows was set aside."""
    total = counts.rows_out + counts.set_aside
    if total and counts.set_aside / total > most:
        raise UserError(
            f"{counts.set_aside:,} of {total:,} rows were set aside, more than max_set_aside={most}; "
            f"the most common reason is: {_common_reason(path)}. See {posixpath.join(path, 'set_aside')}."
        )


def write_table(rows: pa.Table, path: str) -> None:
    """Write one small table as a Parquet file, making its folder."""
    fs, root = fsspec.core.url_to_fs(path)
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
    outcome = pa.array(["data" if k else "set_aside" for k in kept], pa.string())
    if REASON in batch.column_names:
        batch = batch.drop_columns([REASON])
    return batch.append_column(REASON, reasons).append_column(_OUTCOME, outcome)


def _settle(fs: Any, root: str) -> None:
    """Give the two outcomes their folders' names; safe to repeat after an interruption."""
    for name in ("data", "set_aside"):
        written = f"{root}/rows/{_OUTCOME}={name}"
        if fs.exists(written):
            fs.mv(written, f"{root}/{name}", recursive=True)
        fs.makedirs(f"{root}/{name}", exist_ok=True)
    for leftover in ("rows", _CHECKPOINT):
        if fs.exists(f"{root}/{leftover}"):
            fs.rm(f"{root}/{leftover}", recursive=True)


def _count_in(fs: Any, folder: str) -> int:
    total = 0
    for name in fs.find(folder):
        if name.endswith(".parquet"):
            with fs.open(name) as file:
                total += pq.read_metadata(file).num_rows
    return total


def _common_reason(path: str) -> str:
    fs, root = fsspec.core.url_to_fs(path)
    counts: dict[str, int] = {}
    for name in fs.find(f"{root}/set_aside"):
        with fs.open(name) as file:
            for reason in pq.read_table(file, columns=[REASON]).column(REASON).to_pylist():
                counts[reason] = counts.get(reason, 0) + 1
    return max(counts, key=lambda r: counts[r]) if counts else "unknown"
