"""SIGKILL during a rewriting job: no row is lost or duplicated, and no checkpointed row is repeated."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from endpoint import Endpoint, completion
from killed import checkpointed, ended, start, wait_for_checkpoints, with_second_node
from ray_head import Head

from safety_ray.core import dataset
from safety_ray.core.artifact import read_record
from safety_ray.core.records import SCORED, schema

pytestmark = pytest.mark.covers(
    "safety_ray.rewrite",
    "safety_ray.llm.openai_engine",
    "safety_ray.core.dataset",
    "safety_ray.core.artifact",
)
ROWS = 320
ENGINE = "_Endpoint"
"""part of the process title of the actor that sends requests to the endpoint"""
STORY = (
    "Some pupils wrote about a garden and its water. They told how people take turns and why that is fair. "
)


class Writer:
    """An endpoint that answers each document with its number, up to `allowed` answers in total."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.allowed = 0
        self.endpoint = Endpoint(self.answer)

    def answer(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        (number,) = re.findall(r"Note (d\d+) ", body["messages"][1]["content"])
        while self.done.total() >= self.allowed:
            time.sleep(0.05)
        self.done[number] += 1
        return 200, completion(f"{STORY}It was note {number} of many.")

    def times(self, ids: set[str]) -> dict[str, int]:
        """Return how often each row in `ids` was answered, including answers to an engine that was killed."""
        return {id: self.done[id] for id in ids}

    def repeated(self) -> int:
        """Return the number of rows that were answered more than once."""
        return sum(times > 1 for times in self.done.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"id": f"d{n:04}", "text": f"Note d{n:04} tells of a quarrel in the street.", "score": 3}
        | {"probs": [0.0, 0.0, 0.0, 1.0, 0.0, 0.0], "scored_chunks": [{"end": 9, "score": 3}]}
        for n in range(ROWS)
    ]
    table = pa.Table.from_pylist(rows, schema(SCORED))
    for n in range(4):
        dataset.write_table(table.slice(n * ROWS // 4, ROWS // 4), str(tmp_path / "in" / f"{n}.parquet"))
    return tmp_path


@pytest.fixture
def writer() -> Iterator[Writer]:
    started = Writer()
    with started.endpoint:
        yield started


def check_output(folder: Path, writer: Writer) -> None:
    """Check that every row was requested and is written once, with its own answer or with a reason."""
    record = read_record(str(folder / "out"))
    assert record is not None
    assert record["rows_in"] == record["rows_out"] + record["rejected"] == ROWS
    names = ["source_id", "text"]
    rows = [
        row
        for name in ("data", "rejected")
        for file in (folder / "out" / name).rglob("*.parquet")
        for row in dataset.table(str(file), names).to_pylist()
    ]
    assert (
        sorted(row["source_id"] for row in rows) == sorted(writer.done) == [f"d{n:04}" for n in range(ROWS)]
    )
    assert all(row["text"].endswith(f"It was note {row['source_id']} of many.") for row in rows)


def test_rewrite_stage_recovers_from_engine_and_driver_kill(
    folder: Path, classifier: Path, writer: Writer, head: Head
) -> None:
    arguments = (str(classifier), writer.endpoint.url)
    writer.allowed = int(0.35 * ROWS)
    process = start("rewrite_job.py", head, folder, *arguments)
    checkpointed_ids = wait_for_checkpoints(folder, int(0.25 * ROWS), process)
    first = writer.times(checkpointed_ids)
    (actor,) = head.workers(ENGINE)
    actor.kill()
    writer.allowed = int(0.7 * ROWS)
    wait_for_checkpoints(folder, int(0.6 * ROWS), process)
    (restarted,) = head.workers(ENGINE)
    assert restarted.pid != actor.pid, "another process took the killed actor's place"
    process.kill()
    process.wait()
    psutil.wait_procs([restarted])
    second = writer.times(checkpointed(folder / "out"))
    assert len(second) > len(first)
    assert not (folder / "out" / "record.json").exists()
    writer.allowed = 10 * ROWS
    ended(start("rewrite_job.py", head, folder, *arguments), folder)
    check_output(folder, writer)
    assert writer.times(set(first)) == first
    assert writer.times(set(second)) == second
    print(f"{writer.repeated()} of {ROWS} rows requested twice")


def test_rewrite_stage_recovers_from_node_kill(
    folder: Path, classifier: Path, writer: Writer, head: Head
) -> None:
    (folder / "wait").touch()
    writer.allowed = ROWS // 2
    process = start("rewrite_job.py", head, folder, str(classifier), writer.endpoint.url)
    node = with_second_node(head, folder, process, cpus=6)
    try:
        before = writer.times(wait_for_checkpoints(folder, ROWS // 3, process))
        assert node.workers(ENGINE), "the engine's actor is on the node that is lost"
        os.kill(node.raylet(), signal.SIGKILL)
        writer.allowed = 10 * ROWS
        ended(process, folder)
    finally:
        node.stop()
    check_output(folder, writer)
    assert writer.times(set(before)) == before
    print(f"{writer.repeated()} of {ROWS} rows requested twice")
