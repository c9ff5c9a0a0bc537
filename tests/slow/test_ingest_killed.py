"""SIGKILL during an ingest: finished input files are not read again, and each row is there exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from gate import ALL, allow, waiting
from ingest_job import MAX_BYTES
from killed import ended, kill_driver, on_node, start, wait_for, with_second_node
from ray_head import Head

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core import dataset
from safety_ray.core.artifact import read_record

pytestmark = pytest.mark.covers("jobs.ingest", "safety_ray.ingest", "safety_ray.core.dataset")
SLOW = "0-slow.jsonl"
NAMES = [SLOW, *(f"{n}.jsonl" for n in range(1, 10))]
ROWS, CHARACTERS, REJECTED = 60, 5000, 3
"""per file; of its last rows, some are longer than `max_bytes`"""
COUNTS = ("rows_in", "rows_out", "rejected", "files")


def write_input(folder: Path) -> Counter[tuple[str, int]]:
    """Write the input files. Returns the place of each row."""
    folder.mkdir()
    for name in NAMES:
        lines = [
            {"id": f"{name}/{n}", "text": f"{n:02} " + "x" * CHARACTERS * (1 if n < ROWS - REJECTED else 2)}
            for n in range(ROWS)
        ]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Counter((name, position) for name in NAMES for position in range(1, ROWS + 1))


def stored(output: Path) -> Counter[tuple[str, int]]:
    """Return the places of rows in all readable files of the output."""
    rows: Counter[tuple[str, int]] = Counter()
    for path in output.rglob("*.parquet"):
        try:
            table = pq.read_table(path, columns=["source_file", "source_position"], partitioning=None)
        except (OSError, pa.ArrowInvalid):  # being written
            continue
        files, positions = (column.to_pylist() for column in table.columns)
        rows.update(zip((Path(file).name for file in files), positions, strict=True))
    return rows


def whole_files(rows: Counter[tuple[str, int]]) -> set[str]:
    counts = Counter(name for name, _ in rows)
    return {name for name, number in counts.items() if number == ROWS}


def readers_of_slow(folder: Path, process: subprocess.Popen[bytes]) -> set[int]:
    """Wait until rows of the slow file are stored, and return the worker that waits in its middle."""
    wait_for(lambda: any(name == SLOW for name, _ in stored(folder / "out")), folder, process)
    workers: set[int] = wait_for(lambda: waiting(folder / "slow"), folder, process)
    return workers


def test_ingest_killed_reads_unfinished_files_only(tmp_path: Path, head: Head) -> None:
    places = write_input(tmp_path / "in")
    output, read = tmp_path / "out", tmp_path / "read"
    allow(tmp_path / "slow", 0)
    process = start("ingest_job.py", head, tmp_path)
    wait_for(lambda: len(whole_files(stored(output))) >= 4, tmp_path, process)
    kill_driver(process, readers_of_slow(tmp_path, process))
    finished = whole_files(stored(output))
    assert not (output / "record.json").exists()
    assert SLOW not in finished
    first_run = read.read_text().split()
    allow(tmp_path / "slow", ALL)
    ended(start("ingest_job.py", head, tmp_path), tmp_path)
    record = read_record(str(output))
    assert record is not None
    assert (record["rows_in"], record["rejected"], record["files"]) == (
        len(places), len(NAMES) * REJECTED, len(NAMES),
    )  # fmt: skip
    assert stored(output) == places
    second_run = read.read_text().split()[len(first_run) :]
    assert SLOW in second_run
    assert finished.isdisjoint(second_run)
    print(f"{len(finished)} of {len(NAMES)} input files were finished before the kill")


def contents(output: Path) -> dict[str, Any]:
    """Return the kept and the rejected rows of a finished output folder, and its counts."""
    record = read_record(str(output))
    assert record is not None
    rejected = pads.dataset(output / "rejected").to_table()
    return {
        "kept": dataset.table(str(output)),
        "rejected": rejected.sort_by([("source_file", "ascending"), ("source_position", "ascending")]),
    } | {name: record[name] for name in COUNTS}


def check_output(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for the end of the job, and check that its output is that of a run in which nothing is killed."""
    ended(process, folder)
    assert process.returncode == 0
    undisturbed = IngestConfig(
        input=str(folder / "in"), output=str(folder / "undisturbed"), max_bytes=MAX_BYTES
    )
    ingest_documents(undisturbed)
    expected = contents(folder / "undisturbed")
    assert [expected[name] for name in COUNTS] == [
        len(NAMES) * ROWS, len(NAMES) * (ROWS - REJECTED), len(NAMES) * REJECTED, len(NAMES),
    ]  # fmt: skip
    assert contents(folder / "out") == expected


def test_ingest_reads_file_of_killed_worker_again(tmp_path: Path, head: Head, ray_cluster: Head) -> None:
    write_input(tmp_path / "in")
    allow(tmp_path / "slow", 0)
    process = start("ingest_job.py", head, tmp_path)
    (worker,) = readers_of_slow(tmp_path, process)
    os.kill(worker, signal.SIGKILL)
    allow(tmp_path / "slow", ALL)
    check_output(process, tmp_path)
    assert Counter((tmp_path / "read").read_text().split())[SLOW] == 2
    record = read_record(str(tmp_path / "out"))
    assert record is not None
    lost = record["lost_work"]
    assert (lost["workers"], lost["nodes"]) == (1, 0)
    assert 0 < lost["rows"] <= ROWS
    assert lost["seconds"] > 0


def test_ingest_reads_file_of_killed_node_again(tmp_path: Path, lossy_head: Head, ray_cluster: Head) -> None:
    write_input(tmp_path / "in")
    allow(tmp_path / "slow", 0)
    (tmp_path / "wait").touch()
    process = start("ingest_job.py", lossy_head, tmp_path)
    node = with_second_node(lossy_head, tmp_path, process, cpus=6)
    try:
        assert on_node(node, readers_of_slow(tmp_path, process))
        os.kill(node.raylet(), signal.SIGKILL)
        allow(tmp_path / "slow", ALL)
        check_output(process, tmp_path)
    finally:
        node.stop()
    assert Counter((tmp_path / "read").read_text().split())[SLOW] > 1
