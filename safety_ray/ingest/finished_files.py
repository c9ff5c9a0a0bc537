"""Find the input files that an interrupted ingest has finished, and remove the rows of all others.

The task that reads an input file reports its number of rows at the end. The file is finished if so many rows
of it are in complete files of the output. Every other input file is read again from its beginning, so its
rows are removed. An interruption while they are removed makes more input files count as unfinished, and
loses or repeats no row.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray.core import filesystem, parquet, row_files
from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash
from safety_ray.ingest import readers
from safety_ray.ingest.documents import source_name

_SOURCE = "source_file"
_THREADS = 16
Sources = dict[str, int]
"""Rows by input file"""


def write_report(
    folder: str,
    file: str,
    rows: int,
    ignored: Counter[str],
    unreadable: Counter[str],
    *,
    missing: Iterable[str] = (),
    damaged: int = 0,
    size: int = 0,
    lost: int = 0,
) -> None:
    """Report that an input file has been read: its rows, ignored records and unreadable values.

    `missing`: fields of the column map that none of its records has. `damaged`: pages of which parts may be
    wrong. `lost` of its `size` bytes could not be
    read; `size` is 0 if the server does not report it.
    """
    fs, root = filesystem.find(f"{folder}/{_report_name(file)}")  # a repeated task overwrites its report
    fs.makedirs(posixpath.dirname(root), exist_ok=True)
    report = {
        "rows": rows,
        "ignored": ignored,
        "unreadable": unreadable,
        "missing": dict.fromkeys(missing, 1),
        "damaged": {"pages": damaged},
        "bytes": {"lost": min(lost, size), "read": max(size - lost, 0)},
    }
    fs.pipe_file(root, json.dumps(report).encode())


def read_reports(folder: str) -> dict[str, dict[str, Any]]:
    """Return all reports in `folder`, by name."""
    fs, root = filesystem.find(folder)
    names = fs.find(root) if fs.exists(root) else []
    # At once, as each may take a round trip; `fs.cat` would take a path with [ ] for a pattern.
    contents = fs.cat_ranges(names, None, None, on_error="raise") if names else []
    return {posixpath.basename(name): _parse(content) for name, content in zip(names, contents, strict=True)}


def sum_counts(reports: dict[str, dict[str, Any]], name: str) -> dict[str, int]:
    """Return the sum over all files of the counts `name` of the reports, such as "ignored" or "bytes"."""
    total: Counter[str] = Counter()
    for report in reports.values():
        total.update(report.get(name, {}))
    return dict(sorted(total.items()))


def unreported_bytes(files: list[str], reports: dict[str, dict[str, Any]]) -> int:
    """Return the size of the input files without a report: pages of which all could be read."""
    others = [file for file in files if _report_name(file) not in reports]
    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(pool.map(filesystem.size, others))


def unfinished(
    files: list[str], format: str, stored: dict[str, Sources], reports: dict[str, dict[str, Any]]
) -> list[str]:
    """Return the input files that are not finished. `stored`: the result of `stored_tasks`."""
    rows: Counter[str] = Counter()
    for sources in stored.values():
        rows.update(sources)
    return [f for f in files if rows[source_name(f)] != _rows_reported(f, format, reports)]


def _rows_reported(file: str, format: str, reports: dict[str, dict[str, Any]]) -> int | None:
    one = 1 if readers.kind_of(file, format) == "html" else None  # a page is one row; few have a report
    return reports.get(_report_name(file), {}).get("rows", one)


def stored_tasks(output: str) -> dict[str, Sources]:
    """Return the rows of each complete write task of `output`, by the name of its files.

    Deletes the files of all other tasks.
    """
    fs, root = filesystem.find(output)
    by_task: dict[str, list[str]] = defaultdict(list)
    for path in row_files.listed(fs, root, ""):
        by_task[row_files.task_of(path) or path].append(path)
    with ThreadPoolExecutor(_THREADS) as pool:
        sources_of_tasks = list(pool.map(lambda paths: _sources_of_task(fs, root, paths), by_task.values()))
    stored = {}
    for paths, sources in zip(by_task.values(), sources_of_tasks, strict=True):
        if sources is not None:
            stored[posixpath.basename(paths[0])] = sources
        else:
            for path in paths:
                fs.rm(path)
    return stored


def tasks_with(stored: dict[str, Sources], files: list[str]) -> list[dict[str, Any]]:
    """Return the write tasks that have rows of the input files `files`, as rows for `remove_rows`."""
    names = set(map(source_name, files))
    sources = {task: sorted(names.intersection(rows)) for task, rows in stored.items()}
    return [{"name": task, "sources": removed} for task, removed in sources.items() if removed]


def remove_rows(batch: dict[str, Any], output: str) -> pa.Table:
    """Remove rows of input files from the files of write tasks. Returns an empty table.

    The old files are deleted after the new ones are written. Until then, two versions of a write task exist,
    and neither counts as complete.
    """
    fs, root = filesystem.find(output)
    for name, sources in zip(batch["name"], batch["sources"], strict=True):
        paths = _paths(root, str(name))
        present = [path for path in paths if fs.exists(path)]
        if present == paths:  # else a worker was lost here after it had written the new files
            _rewrite(fs, root, str(name), sources)
        for path in present:
            fs.rm(path)
    return pa.table({"rows": pa.array([], pa.int64())})


def _rewrite(fs: Any, root: str, name: str, sources: Any) -> None:
    rows = {row_files.is_rejected(path): _without(fs, path, sources) for path in _paths(root, name)}
    kept, rejected = (len(rows.get(key, ())) for key in (False, True))
    for path in _paths(root, row_files.name_of(str(row_files.task_of(name)), kept, rejected)):
        with fs.open(path, "wb") as file:
            table = rows[row_files.is_rejected(path)]
            pq.write_table(table, file, row_group_size=row_files.GROUP_ROWS)


def _paths(root: str, name: str) -> list[str]:
    """Return the files of a write task, by the numbers of rows in their name."""
    paths = [f"{folder}/{name}" for folder in row_files.folders(root, "")]
    return [path for path in paths if row_files.rows_by_name(path)]


def _without(fs: Any, path: str, sources: Any) -> pa.Table:
    with fs.open(path) as file, parquet.readable(path):
        rows = pq.read_table(file, partitioning=None)
    removed = pa.array(list(sources), rows.schema.field(_SOURCE).type)
    return rows.filter(pc.invert(pc.is_in(rows.column(_SOURCE), removed)))


def _sources_of_task(fs: Any, root: str, paths: list[str]) -> Sources | None:
    """Return the rows of a write task by input file, or None unless all its files are there and complete."""
    if sorted(_paths(root, posixpath.basename(paths[0]))) != sorted(paths):
        return None
    total: Counter[str] = Counter()
    for path in paths:
        try:
            with fs.open(path) as file, parquet.readable(path):
                sources = pq.read_table(file, columns=[_SOURCE], partitioning=None).column(_SOURCE)
        except UserError:  # written in part
            return None
        for pair in pc.value_counts(sources).to_pylist():
            total[pair["values"]] += pair["counts"]
    if total.total() != sum(row_files.rows_by_name(path) or 0 for path in paths):
        return None
    return dict(total)


def _report_name(file: str) -> str:
    return f"{stable_hash(file):016x}.json"


def _parse(content: bytes) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(content)
    except ValueError:  # written in part
        return {}
    return report
