"""Input files whose rows are all in complete files of the output are kept; rows of all others are removed."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safety_ray.core import row_files
from safety_ray.ingest import finished_files

FILES = [f"in/{n}.jsonl" for n in range(6)]
ROWS = {file: 10 * number for number, file in enumerate(FILES)}  # the first file has none
Row = tuple[str, int]


def write_task(output: Path, name: str, rows: list[Row], rejected: set[Row]) -> list[Path]:
    """Write the files of a write task, as `row_sink` does. Returns their paths."""
    split = [[row for row in rows if row not in rejected], [row for row in rows if row in rejected]]
    file_name = row_files.name_of(name, len(split[0]), len(split[1]))
    paths = []
    for folder, part in zip(("data", "rejected"), split, strict=True):
        if part:
            (output / folder).mkdir(parents=True, exist_ok=True)
            paths.append(output / folder / file_name)
            columns: dict[str, Any] = {
                "source_file": [file for file, _ in part],
                "source_position": [position for _, position in part],
            }
            pq.write_table(pa.table(columns), paths[-1])
    return paths


def all_rows() -> list[Row]:
    return [(file, position) for file, number in ROWS.items() for position in range(number)]


def store(output: Path, seed: int) -> dict[str, list[Path]]:
    """Write all rows, in tasks that have rows of several input files. Returns the files of each task."""
    rng = random.Random(seed)
    rows = all_rows()
    rejected = {row for row in rows if rng.random() < 0.2}
    tasks: dict[str, list[Row]] = {}
    for file, position in rows:
        tasks.setdefault(f"t{rng.randrange(3) + position // 20 * 3}", []).append((file, position))
    return {name: write_task(output, name, part, rejected) for name, part in tasks.items()}


def report(output: Path, files: list[str]) -> dict[str, dict[str, Any]]:
    for file in files:
        finished_files.write_report(str(output / "reports"), file, ROWS[file], Counter(), Counter())
    return finished_files.read_reports(str(output / "reports"))


def resume(output: Path, reports: dict[str, dict[str, Any]]) -> list[str]:
    """Return the files to read, after removing their rows."""
    stored = finished_files.stored_tasks(str(output))
    remaining = finished_files.unfinished(FILES, "auto", stored, reports)
    for task in finished_files.tasks_with(stored, remaining):
        batch = {key: np.array([value], object) for key, value in task.items()}
        finished_files.remove_rows(batch, str(output))
    return remaining


def written(output: Path) -> Counter[Row]:
    tables = [pq.read_table(path, partitioning=None).to_pylist() for path in output.rglob("*.parquet")]
    return Counter((row["source_file"], row["source_position"]) for rows in tables for row in rows)


def check(output: Path, remaining: list[str]) -> None:
    """Check that the rows of all files but the `remaining` ones are there once, and counted by file names."""
    kept = written(output)
    assert kept == Counter(row for row in all_rows() if row[0] not in remaining)
    for path in output.rglob("*.parquet"):
        assert row_files.rows_by_name(str(path)) == pq.read_metadata(path).num_rows


@pytest.mark.parametrize("seed", range(4))
def test_finished_files_keep_rows_of_reported_files_only(tmp_path: Path, seed: int) -> None:
    store(tmp_path, seed)
    assert resume(tmp_path, report(tmp_path, [FILES[0], FILES[2], FILES[5]])) == [FILES[1], *FILES[3:5]]
    check(tmp_path, [FILES[1], *FILES[3:5]])


@pytest.mark.parametrize("damage", ["half", "no data", "no rejected", "twice", "foreign"])
def test_finished_files_delete_incomplete_task(tmp_path: Path, damage: str) -> None:
    tasks = store(tmp_path, 7)
    name, (data, rejected) = next((name, paths) for name, paths in tasks.items() if len(paths) == 2)
    lost = {row["source_file"] for path in (data, rejected) for row in pq.read_table(path).to_pylist()}
    if damage == "half":
        data.write_bytes(data.read_bytes()[:-20])
    elif damage == "no data":
        data.unlink()
    elif damage == "no rejected":
        rejected.unlink()
    elif damage == "twice":
        write_task(tmp_path, name, [(FILES[5], 1)], set())
    else:
        lost = set()
        data.with_name("000001_000000.parquet").write_bytes(data.read_bytes())
    remaining = resume(tmp_path, report(tmp_path, FILES))
    assert remaining == [file for file in FILES if file in lost]
    check(tmp_path, remaining)
    assert resume(tmp_path, report(tmp_path, FILES)) == remaining


def test_finished_files_survive_interrupted_removal(tmp_path: Path) -> None:
    store(tmp_path, 3)
    reports = report(tmp_path, FILES[:5])
    stored = finished_files.stored_tasks(str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    [task, *_] = finished_files.tasks_with(stored, [FILES[5]])
    finished_files.remove_rows({key: np.array([value], object) for key, value in task.items()}, str(tmp_path))
    for path, content in before.items():  # interrupted before the old files were deleted
        path.write_bytes(content)
    remaining = resume(tmp_path, reports)
    assert FILES[5] in remaining
    check(tmp_path, remaining)


def test_remove_rows_repeated_after_loss_of_worker(tmp_path: Path) -> None:
    tasks = store(tmp_path, 3)
    stored = finished_files.stored_tasks(str(tmp_path))
    for task in finished_files.tasks_with(stored, [FILES[5]]):
        batch = {key: np.array([value], object) for key, value in task.items()}
        old = [path for path in tmp_path.rglob(task["name"]) if path.exists()]
        content = old[-1].read_bytes()
        finished_files.remove_rows(batch, str(tmp_path))
        old[-1].write_bytes(content)  # lost before it deleted the last file
        finished_files.remove_rows(batch, str(tmp_path))
        finished_files.remove_rows(batch, str(tmp_path))
    assert any(len(paths) == 2 for paths in tasks.values())
    check(tmp_path, [FILES[5]])


def test_finished_files_count_page_as_one_row(tmp_path: Path) -> None:
    pages = ["in/a.html", "in/b.html"]
    write_task(tmp_path, "t0", [(pages[0], 0)], set())
    stored = finished_files.stored_tasks(str(tmp_path))
    assert finished_files.unfinished(pages, "auto", stored, {}) == [pages[1]]
    assert finished_files.unfinished(pages, "html", stored, {}) == [pages[1]]


def test_finished_files_ignore_reports_of_other_versions(tmp_path: Path) -> None:
    store(tmp_path, 5)
    reports = report(tmp_path, FILES)
    for values in reports.values():
        del values["rows"]
    assert resume(tmp_path, reports) == FILES
    assert not written(tmp_path)


def test_finished_files_ignore_half_written_report(tmp_path: Path) -> None:
    finished_files.write_report(str(tmp_path), FILES[1], 10, Counter(a=2), Counter())
    finished_files.write_report(str(tmp_path), FILES[2], 20, Counter(a=3), Counter())
    [first, _] = sorted(tmp_path.iterdir())
    left = finished_files.read_reports(str(tmp_path))[sorted(tmp_path.iterdir())[1].name]
    first.write_bytes(first.read_bytes()[:9])
    reports = finished_files.read_reports(str(tmp_path))
    assert finished_files.sum_counts(reports, "ignored") == left["ignored"]
