"""Reject all documents of an id except the first, after they are written, without moving their texts.

Of each document, 52 bytes are shuffled: the digest of its id, where it was read (file and position), where it
is stored, and in which block it is compared. Then only the stored files that have repeated ids are written
again. An interruption at any point leaves every row in a file, so this can be repeated.
"""

from __future__ import annotations

import posixpath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from safety_ray.core import filesystem, parquet, row_files
from safety_ray.core.digests import TYPE, digest, first_half, halves
from safety_ray.core.filesystem import PART

KEY, HALF, STORED = "key", "half", "stored"
_KEYS = pa.schema(
    [
        (KEY, TYPE),
        (HALF, pa.int64()),
        ("file", pa.int32()),
        ("position", pa.int64()),
        (STORED, pa.int32()),
        ("row", pa.int32()),
    ]
)
_REASON = "rejected_reason"


def stored_files(output: str) -> list[str]:
    """Return the files of documents in `output`, after removing what an interrupted `reject_rows` left."""
    fs, root = filesystem.find(output)
    fs.invalidate_cache()
    data, rejected = row_files.folders(root, "")
    for name in fs.find(rejected):
        if name.endswith(PART):
            fs.rm(name)
    by_task: dict[str | None, str] = {}
    for name in sorted(fs.find(data)):
        other = by_task.get(row_files.task_of(name))
        if name.endswith(PART):
            fs.rm(name)
        elif other and name.endswith(".parquet"):  # the longer one has been replaced by the shorter one
            short, long = sorted((name, other), key=lambda path: row_files.rows_by_name(path) or 0)
            fs.rm(long)
            by_task[row_files.task_of(name)] = short
        elif name.endswith(".parquet"):
            by_task[row_files.task_of(name)] = name
    return [fs.unstrip_protocol(name) if "://" in output else name for name in sorted(by_task.values())]


def read_keys(batch: dict[str, Any], sources: list[str]) -> pa.Table:
    """Return the keys of the rows of one stored file. `sources`: the input files, in their order."""
    (number,), (path,) = batch[STORED].tolist(), batch["path"].tolist()
    fs, root = filesystem.find(path)
    with fs.open(root) as file, parquet.readable(path):
        rows = pq.read_table(file, columns=["id", "source_file", "source_position"], partitioning=None)
    order = pc.index_in(rows.column("source_file"), pa.array(sources, rows.schema.field("source_file").type))
    keys = digest(rows.column("id"))
    columns = [
        keys,
        first_half(keys),
        order,
        rows.column("source_position"),
        pa.array(np.full(len(rows), number, np.int32)),
        pa.array(np.arange(len(rows), dtype=np.int32)),
    ]
    return pa.table(columns, schema=_KEYS)


def repeated(keys: pa.Table) -> pa.Table:
    """Return the rows whose id is that of an earlier row, by file and position.

    `keys` must have all rows of each id. The columns are `stored` and `row`.
    """
    pairs = halves(keys.column(KEY))
    order = np.argsort(pairs[:, 0])
    equal = pairs[order[1:], 0] == pairs[order[:-1], 0]
    candidates = order[np.append(equal, False) | np.insert(equal, 0, False)]  # few rows are sorted further
    some = keys.take(pa.array(candidates))
    pairs = pairs[candidates]
    place = [some.column(name).to_numpy() for name in ("position", "file")]
    order = np.lexsort((*place, pairs[:, 1], pairs[:, 0]))
    later = np.zeros(len(order), bool)
    later[1:] = (pairs[order[1:]] == pairs[order[:-1]]).all(axis=1)
    return some.select([STORED, "row"]).take(pa.array(order[later]))


def reject_rows(rows: pa.Table, stored: list[str]) -> pa.Table:
    """Move `rows`, which has all repeated rows of some of the files `stored`, to `rejected/`.

    Returns the number of rows of each file.
    """
    numbers = rows.column(STORED).to_numpy()
    counts = []
    for number in np.unique(numbers):
        _rewrite(stored[number], rows.column("row").to_numpy()[numbers == number])
        counts.append(int((numbers == number).sum()))
    return pa.table({"rows": pa.array(counts, pa.int64())})


def _rewrite(path: str, rejected: Any) -> None:
    """Write a stored file again without the rows `rejected`; write these to `rejected/` first.

    It does nothing if it has ended before: Ray calls it again if a node with the result is lost.
    """
    fs, path = filesystem.find(path)
    folder, name = posixpath.split(path)
    task, kept = row_files.task_of(name), row_files.rows_by_name(path)
    to = row_files.folders(posixpath.dirname(folder), "")[1]
    # A merge of partitions rejects more rows of files that were written again: `kept` tells the names apart.
    duplicates = f"{to}/{row_files.name_of(f'{task}d{kept}', 0, len(np.unique(rejected)))}"
    fs.invalidate_cache()
    if not fs.exists(path) and fs.exists(duplicates):  # written first, and the other removed last
        return
    with fs.open(path) as file, parquet.readable(path):
        table = pq.read_table(file, partitioning=None)
    mask = np.zeros(len(table), bool)
    mask[rejected] = True
    out = table.filter(pa.array(mask))
    reasons = [f"duplicate id '{id}'" for id in out.column("id").to_pylist()]
    place = table.schema.get_field_index(_REASON)
    out = out.set_column(place, table.schema.field(place), pa.array(reasons, table.schema.field(place).type))
    _write(fs, duplicates, out)
    if len(out) < len(table):
        name = name.replace(f"-k{kept}-", f"-k{len(table) - len(out)}-")
        _write(fs, f"{folder}/{name}", table.filter(pa.array(~mask)))
    fs.rm(path)


def _write(fs: Any, path: str, table: pa.Table) -> None:
    """Write a file that no reader sees incomplete. On object stores, that is so for every file."""
    local = isinstance(fs, LocalFileSystem)
    fs.makedirs(posixpath.dirname(path), exist_ok=True)
    with fs.open(f"{path}{PART * local}", "wb") as file:
        pq.write_table(table, file, row_group_size=row_files.GROUP_ROWS)
    if local:
        fs.mv(f"{path}{PART}", path)
