"""Row groups of token rows: how they are written, and the index that says where each row is.

    <folder>/groups.parquet    one line per row group: first and last row, file in data/, number in the file

The index is written when the token rows are finished, so that a reader opens one file instead of the footers
of all files. A folder without an index, as earlier versions wrote it, is read by its footers.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray.core import dataset, filesystem, parquet
from safety_ray.core.errors import UserError
from safety_ray.core.records import TOKEN_ROW, require

ROWS = 1024
"""Rows of a row group. Groups begin at multiples of it, as the blocks that training shuffles."""
INDEX = "groups.parquet"
SCHEMA = pa.schema(
    [
        ("first", pa.int64()),  # lowest row of the group
        ("last", pa.int64()),  # highest row of the group
        ("file", pa.string()),  # relative to data/
        ("group", pa.int32()),
    ]
)
_THREADS = 16


def write_rows(rows: pa.Table, path: str) -> None:
    """Write token rows in ascending order to one file, atomically."""
    fs, root = filesystem.find(path)
    fs.makedirs(root.rsplit("/", 1)[0], exist_ok=True)
    first = rows.column("row")[0].as_py() if len(rows) else 0
    with fs.open(f"{root}{filesystem.PART}", "wb") as file, pq.ParquetWriter(file, rows.schema) as writer:
        start = 0
        while start < len(rows):
            size = ROWS - (first + start) % ROWS
            writer.write_table(rows.slice(start, size), row_group_size=ROWS)
            start += size
    fs.mv(f"{root}{filesystem.PART}", root)


def write_index(path: str) -> int:
    """Write the index of the token rows in `path`. Returns the number of rows. Raises as `load` does."""
    groups = _from_footers(path)
    _check(groups, path)
    dataset.write_table(groups, f"{path.rstrip('/')}/{INDEX}")
    return rows_in(groups)


def load(path: str) -> pa.Table:
    """Return the row groups of the token rows in `path` as rows of SCHEMA, in the order of their rows.

    Raises UserError if files are missing or not in the index, or if rows are not numbered 0, 1, 2, ...
    """
    fs, root = filesystem.find(path)
    if fs.exists(f"{root}/{INDEX}"):
        with fs.open(f"{root}/{INDEX}") as file, parquet.readable(f"{path.rstrip('/')}/{INDEX}"):
            groups = pq.read_table(file, partitioning=None).cast(SCHEMA)
        _check_files(groups, path)
    else:
        groups = _from_footers(path)
    _check(groups, path)
    return groups


def rows_in(groups: pa.Table) -> int:
    """Return the number of rows of an index."""
    return int(groups.column("last")[-1].as_py()) + 1 if len(groups) else 0


def file_path(path: str, file: str) -> str:
    """Return the path of a file of the index of `path`."""
    return f"{path.rstrip('/')}/data/{file}"


def _names(path: str) -> list[str]:
    """Return the files of token rows, relative to data/."""
    fs, root = filesystem.find(f"{path.rstrip('/')}/data")
    names = sorted(name[len(root) + 1 :] for name in fs.find(root) if name.endswith(".parquet"))
    if not names:
        raise UserError(f"'{path}' has no token rows in data/; pack them again.")
    return names


def _from_footers(path: str) -> pa.Table:
    with ThreadPoolExecutor(_THREADS) as pool:
        groups = [
            line for lines in pool.map(lambda name: _groups_of(path, name), _names(path)) for line in lines
        ]
    return pa.Table.from_pylist(groups, schema=SCHEMA).sort_by("first")


def _groups_of(path: str, name: str) -> list[dict[str, Any]]:
    full = file_path(path, name)
    fs, root = filesystem.find(full)
    groups = []
    with fs.open(root) as handle, parquet.readable(full):
        file = pq.ParquetFile(handle)
        require(TOKEN_ROW, file.schema_arrow.names, f"'{full}'")
        for group in range(file.num_row_groups):
            if count := file.metadata.row_group(group).num_rows:
                first, last = _first_and_last(file, group)
                if last - first + 1 != count:
                    raise UserError(
                        f"'{full}' has {count} rows numbered {first} to {last} in one row group; "
                        "pack them again."
                    )
                groups.append({"first": first, "last": last, "file": name, "group": group})
    return groups


def _first_and_last(file: pq.ParquetFile, group: int) -> tuple[int, int]:
    """Return the lowest and highest row number of a row group, from the footer if it has statistics."""
    meta = file.metadata.row_group(group)
    columns = [meta.column(i) for i in range(meta.num_columns)]
    stats = next((c.statistics for c in columns if c.path_in_schema == "row"), None)
    if stats is not None and stats.has_min_max:
        return int(stats.min), int(stats.max)
    bounds = pc.min_max(file.read_row_group(group, columns=["row"]).column("row")).as_py()
    return int(bounds["min"]), int(bounds["max"])


def _check_files(groups: pa.Table, path: str) -> None:
    indexed, present = set(groups.column("file").unique().to_pylist()), set(_names(path))
    if indexed != present:
        name = min(indexed ^ present)
        problem = "is missing" if name in indexed else f"is not in {INDEX}"
        raise UserError(f"'{file_path(path, name)}' {problem}; pack the rows again.")


def _check(groups: pa.Table, path: str) -> None:
    """Raise UserError unless the groups contain the rows 0, 1, 2, ..., each once."""
    first, last = (groups.column(name).to_numpy() for name in ("first", "last"))
    if not len(first):
        return
    expected = [0, *(last[:-1] + 1).tolist()]
    wrong = (first != expected).nonzero()[0]
    if len(wrong):
        number = int(wrong[0])
        name = groups.column("file")[number].as_py()
        raise UserError(
            f"'{file_path(path, name)}' has row {first[number]} instead of row {expected[number]}: the rows "
            "are not numbered 0, 1, 2, ...; pack them again."
        )
