"""Kill −9 of the engine's actor, the driver, a node: no row is lost, none is twice, little is asked again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from endpoint import Endpoint, completion

from safety_ray import dataset
from safety_ray.artifact import read_record
from safety_ray.records import SCORED, schema

ROWS, SECONDS = 320, 0.15
OPEN = 64
"""Rows that may be asked about again after a kill: those of a few blocks that were on their way to disk."""
STORY = (
    "Some pupils wrote about a garden and its water. They told how people take turns and why that is fair. "
)


class Writer:
    """An endpoint that answers each document with its number, after a while."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.endpoint = Endpoint(self.answer)

    def answer(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        (number,) = re.findall(r"Note (d\d+) ", body["messages"][1]["content"])
        time.sleep(SECONDS)
        self.done[number] += 1
        return 200, completion(f"{STORY}It was note {number} of many.")

    def wait_for(self, rows: int, process: subprocess.Popen[bytes], folder: Path) -> None:
        while self.done.total() < rows:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)

    @property
    def repeated(self) -> int:
        return self.done.total() - len(self.done)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"id": f"d{n:04}", "text": f"Note d{n:04} tells of a quarrel in the street.", "score": 3}
        | {"probs": [0.0, 0.0, 0.0, 1.0, 0.0, 0.0], "chunk_scores": [3]}
        for n in range(ROWS)
    ]
    table = pa.Table.from_pylist(rows, schema(SCORED))
    for n in range(4):
        dataset.write_table(table.slice(n * ROWS // 4, ROWS // 4), str(tmp_path / "in" / f"{n}.parquet"))
    return tmp_path


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer()
    with made.endpoint:
        yield made


def start(folder: Path, classifier: Path, writer: Writer, nodes: int = 1) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("killed_process.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    environment.pop("RAY_ADDRESS", None)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(script), str(folder), str(classifier), writer.endpoint.url, str(nodes)],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def engine_actors(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of `process` that ask the endpoint."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "_Endpoint" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def check(folder: Path, writer: Writer) -> None:
    """Every row was asked about and is there once, with its own answer or with a reason."""
    assert (folder / "done").exists(), (folder / "log").read_text()
    record = read_record(str(folder / "out"))
    assert record is not None
    assert record["rows_in"] == record["rows_out"] + record["set_aside"] == ROWS
    names = ["source_id", "text"]
    found = [
        row
        for name in ("data", "set_aside")
        for file in (folder / "out" / name).rglob("*.parquet")
        for row in dataset.table(str(file), names).to_pylist()
    ]
    assert (
        sorted(row["source_id"] for row in found) == sorted(writer.done) == [f"d{n:04}" for n in range(ROWS)]
    )
    assert all(row["text"].endswith(f"It was note {row['source_id']} of many.") for row in found)


def test_a_killed_engine_is_replaced_and_a_killed_driver_goes_on(
    folder: Path, classifier: Path, writer: Writer
) -> None:
    process = start(folder, classifier, writer)
    writer.wait_for(int(0.3 * ROWS), process, folder)
    (actor,) = engine_actors(process)
    actor.kill()
    writer.wait_for(int(0.65 * ROWS), process, folder)
    (other,) = engine_actors(process)
    assert other.pid != actor.pid, "another process took the killed actor's place"
    assert writer.repeated <= OPEN
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs([other], timeout=20)
    before = writer.done.total()
    assert before < ROWS
    assert not (folder / "out" / "record.json").exists()
    start(folder, classifier, writer).wait()
    check(folder, writer)
    print("asked again", writer.repeated)
    assert writer.repeated <= 2 * OPEN


def test_a_killed_node_takes_nothing_with_it(folder: Path, classifier: Path, writer: Writer) -> None:
    process = start(folder, classifier, writer, nodes=2)
    writer.wait_for(ROWS // 2, process, folder)
    raylet = int((folder / "raylet").read_text())
    (actor,) = engine_actors(process)
    assert actor.ppid() == raylet, "the engine's actor is on the node that is lost"
    os.kill(raylet, signal.SIGKILL)
    process.wait()
    check(folder, writer)
    print("asked again", writer.repeated)
    assert writer.repeated <= 2 * OPEN
