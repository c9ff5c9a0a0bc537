"""The files of a part of an output folder: counts by name, completeness, and what a killed job leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from safety_ray.core import row_files
from safety_ray.core.dataset import write_table


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, str]:
    """A local folder, and one on a filesystem without folders to rename."""
    root = str(tmp_path / "rejected" / "out")  # the name of a parent folder has no meaning
    fs = fsspec.filesystem(request.param, skip_instance_cache=True)
    return fs, root


def put(place: tuple[Any, str], *names: str) -> None:
    fs, root = place
    for name in names:
        fs.makedirs(f"{root}/{name}".rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", b"rows")


def names(place: tuple[Any, str]) -> list[str]:
    fs, root = place
    return sorted(name.split(f"{root}/")[1] for name in fs.find(root))


def test_rows_are_counted_without_opening_files(place: tuple[Any, str]) -> None:
    put(place, "data/a/t1-k250-r6.parquet", "rejected/a/t1-k250-r6.parquet", "data/a/t2-k9-r0.parquet")
    fs, root = place
    listed = row_files.listed(fs, root, "a")  # the files have no footers
    kept = [name for name in listed if not row_files.is_rejected(name)]
    assert (row_files.count_rows(fs, kept), row_files.count_rows(fs, set(listed) - set(kept))) == (259, 6)


@pytest.mark.parametrize("name", ["data/shard-00003.parquet", "data/3f_000001-0.parquet", "t-k4-r0.parquet"])
def test_rows_of_other_files_are_counted_by_footer(tmp_path: Path, name: str) -> None:
    write_table(pa.table({"id": list("abc")}), str(tmp_path / name))
    assert row_files.count_rows(fsspec.filesystem("file"), [str(tmp_path / name)]) == 3


def test_part_is_complete_between_finish_and_next_start(place: tuple[Any, str]) -> None:
    fs, root = place
    for part in ("", "again"):
        assert not row_files.is_complete(fs, root, part)
        row_files.start(fs, root, part)
        assert not row_files.is_complete(fs, root, part)
        row_files.finish(fs, root, part)
        assert row_files.is_complete(fs, root, part)
    assert names(place) == ["data/_SUCCESS", "data/again/_SUCCESS"]


def test_unfinished_tasks_are_removed_before_resuming(place: tuple[Any, str]) -> None:
    put(
        place,
        *("data/t1-k2-r1.parquet", "rejected/t1-k2-r1.parquet", "_checkpoint/t1.parquet"),
        "data/t2-k3-r0.parquet",  # killed before its ids were written
        *("data/t3-k3-r0.parquet", "_checkpoint/t3.pending.parquet"),  # killed before the task ended
        *("data/t4-k3-r0.parquet", "rejected/t4-k2-r1.parquet", "_checkpoint/t4.parquet"),  # ran twice
        "_checkpoint/t5.parquet",  # its file is gone
        "data/3f_000001-0.parquet",  # not of a write task
    )
    fs, root = place
    row_files.remove_unfinished(fs, root, "", f"{root}/_checkpoint")
    assert names(place) == ["_checkpoint/t1.parquet", "data/t1-k2-r1.parquet", "rejected/t1-k2-r1.parquet"]


def test_other_attempts_at_a_task_are_removed(place: tuple[Any, str]) -> None:
    put(
        place, "data/t1-k2-r1.parquet", "rejected/t1-k2-r1.parquet", "data/t1-k3-r0.parquet",
        "data/t2-k3-r0.parquet", "data/old-k5-r0.parquet",
    )  # fmt: skip
    fs, root = place
    kept = row_files.remove_other_attempts(
        fs, row_files.listed(fs, root, ""), ["t1-k3-r0.parquet", "t2-k3-r0.parquet"]
    )
    assert names(place) == ["data/old-k5-r0.parquet", "data/t1-k3-r0.parquet", "data/t2-k3-r0.parquet"]
    assert row_files.count_rows(fs, kept) == 11
