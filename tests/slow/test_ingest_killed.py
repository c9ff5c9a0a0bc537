"""SIGKILL during an ingest: finished input files are not read again, and each row is there exactly once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killed import LONG_S, ended, start
from ray_head import Head
from waiting import eventually

from safety_ray.core.artifact import read_record

pytestmark = pytest.mark.covers("jobs.ingest", "safety_ray.ingest", "safety_ray.core.dataset")
SLOW = "0-slow.jsonl"
NAMES = [SLOW, *(f"{n}.jsonl" for n in range(1, 10))]
ROWS, CHARACTERS, REJECTED = 60, 5000, 3
"""per file; of its last rows, some are longer than `max_bytes`"""


def write_input(folder: Path) -> Counter[tuple[str, int]]:
    """Write the input files. Returns the place of each row."""
    folder.mkdir()
    for name in NAMES:
        lines = [
            {"id": f"{name}/{n}", "text": "x" * CHARACTERS * (1 if n < ROWS - REJECTED else 2)}
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


def test_ingest_killed_reads_unfinished_files_only(tmp_path: Path, head: Head) -> None:
    places = write_input(tmp_path / "in")
    output, read = tmp_path / "out", tmp_path / "read"
    process = start("ingest_job.py", head, tmp_path)

    def enough() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        rows = stored(output)
        return len(whole_files(rows)) >= 4 and any(name == SLOW for name, _ in rows)

    eventually(enough, LONG_S, every=0.2)
    process.kill()
    process.wait()
    finished = whole_files(stored(output))
    assert not (output / "record.json").exists()
    assert SLOW not in finished
    first_run = read.read_text().split()
    (tmp_path / "allowed").touch()
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
