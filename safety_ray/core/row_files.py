"""The Parquet files of a part of an output folder: their names, the numbers of their rows, and completeness.

    data/<part>/<task>-k<rows>-r<rows>.parquet       rows of one write task
    rejected/<part>/<task>-k<rows>-r<rows>.parquet   rows that this task rejected
    data/<part>/_SUCCESS                             the part is complete
    data/<part>/_INCOMPLETE                          the part is being written, or its writing was interrupted

Both files of a task have the same name, with the numbers of kept and rejected rows. So the rows of a folder
are counted by listing it, and files stay where they were written.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.parquet as pq

from safety_ray.core import parquet

COMPLETE, INCOMPLETE = "_SUCCESS", "_INCOMPLETE"
DATA, REJECTED = "data", "rejected"
_NAME = re.compile(r"(?P<task>.+)-k(?P<kept>\d+)-r(?P<rejected>\d+)\.parquet")
GROUP_ROWS = 8192
"""rows in a row group, which a reader holds in memory"""
_THREADS = 32


def name_of(task: str, kept: int, rejected: int) -> str:
    """Return the name of the files of a write task."""
    return f"{task}-k{kept}-r{rejected}.parquet"


def folders(root: str, part: str) -> tuple[str, str]:
    """Return the folders of a part: data, rejected."""
    return f"{root}/{DATA}/{part}".rstrip("/"), f"{root}/{REJECTED}/{part}".rstrip("/")


def task_of(path: str) -> str | None:
    """Return the write task that a file is from, or None if no write task of this project wrote it."""
    match = _NAME.fullmatch(posixpath.basename(path))
    return match["task"] if match else None


def is_rejected(path: str) -> bool:
    """Return whether a file of an output folder has rejected rows."""
    return path.rfind(f"/{REJECTED}/") > path.rfind(f"/{DATA}/")


def rows_by_name(path: str) -> int | None:
    """Return the number of rows of a file by its name, or None if its name does not have it."""
    match = _NAME.fullmatch(posixpath.basename(path))
    if match is None or not (f"/{DATA}/" in path or f"/{REJECTED}/" in path):
        return None
    return int(match["rejected" if is_rejected(path) else "kept"])


def rows_of(fs: Any, names: Iterable[str]) -> dict[str, int]:
    """Return the number of rows of each Parquet file, by its name, or by its footer if it is another file."""
    rows = {name: rows_by_name(name) for name in names if name.endswith(".parquet")}
    unknown = [name for name, number in rows.items() if number is None]
    counted = dict(zip(unknown, footers(fs, unknown), strict=True))
    return {name: counted.get(name, number) or 0 for name, number in rows.items()}


def count_rows(fs: Any, names: Iterable[str]) -> int:
    """Return the number of rows of all Parquet files together; see `rows_of`."""
    return sum(rows_of(fs, names).values())


def footers(fs: Any, names: list[str]) -> list[int]:
    """Return the number of rows of each Parquet file, from its footer."""

    def rows(name: str) -> int:
        with fs.open(name) as file, parquet.readable(name):
            return int(pq.read_metadata(file).num_rows)

    if not names:
        return []
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(rows, names))


def is_complete(fs: Any, root: str, part: str) -> bool:
    """Return whether a part has been written completely."""
    return bool(fs.exists(f"{folders(root, part)[0]}/{COMPLETE}"))


def start(fs: Any, root: str, part: str) -> None:
    """Create the folders of a part and mark them as incomplete."""
    for folder in folders(root, part):
        fs.makedirs(folder, exist_ok=True)
        fs.pipe_file(f"{folder}/{INCOMPLETE}", b"")


def finish(fs: Any, root: str, part: str) -> None:
    """Mark a part as complete. Its folders exist afterwards, also on object stores without rows."""
    for folder in folders(root, part):
        fs.makedirs(folder, exist_ok=True)
        if fs.exists(f"{folder}/{INCOMPLETE}"):
            fs.rm(f"{folder}/{INCOMPLETE}")
    fs.pipe_file(f"{folders(root, part)[0]}/{COMPLETE}", b"")


def listed(fs: Any, root: str, part: str) -> list[str]:
    """Return the Parquet files of a part in data and rejected, as they are now."""
    fs.invalidate_cache()
    names = [name for folder in folders(root, part) if fs.exists(folder) for name in fs.find(folder)]
    return [name for name in names if name.endswith(".parquet")]


def remove_other_attempts(fs: Any, names: list[str], written: Iterable[str]) -> list[str]:
    """Delete the files of failed attempts at a write task. Returns the other files of `names`.

    `written`: the names of the files of the attempts that succeeded. A task that Ray repeats writes the same
    rows, and so the same names, unless its input was lost and computed again with another result.
    """
    name_by_task = {task_of(name): posixpath.basename(name) for name in written}
    kept = []
    for name in names:
        if name_by_task.get(task_of(name), posixpath.basename(name)) == posixpath.basename(name):
            kept.append(name)
        else:
            fs.rm(name)
    return kept


def remove_unfinished(fs: Any, root: str, part: str, checkpoint: str) -> None:
    """Delete what an interrupted write left of tasks that did not finish, and of tasks that ran twice.

    A task is finished if `checkpoint` has the ids of its rows as <task>.parquet.
    """
    fs.invalidate_cache()
    files = fs.find(checkpoint) if fs.exists(checkpoint) else []
    stems = {posixpath.basename(file).removesuffix(".parquet"): file for file in files}
    names_by_task: dict[str | None, set[str]] = {}
    names = listed(fs, root, part)
    for name in names:
        names_by_task.setdefault(task_of(name), set()).add(posixpath.basename(name))
    finished = {task for task in stems if len(names_by_task.get(task, ())) == 1}
    for file in [*names, *files]:
        stem = posixpath.basename(file).removesuffix(".parquet")
        if (task_of(file) or stem) not in finished:
            fs.rm(file)
