"""SIGKILL during a scoring job: no row is lost or duplicated, and no checkpointed row is repeated."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest
from killed import checkpointed, ended, repeated, start, wait_for_checkpoints, with_second_node
from ray_head import Head, announce_preemption, start_head
from waiting import eventually

from safety_ray.core import dataset
from safety_ray.core.artifact import read_record

pytestmark = pytest.mark.covers(
    "jobs.score", "safety_ray.classifier", "safety_ray.core.dataset", "safety_ray.core.artifact"
)
ROWS, BATCH = 1600, 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = pa.table(
        {"id": [f"d{n:04}" for n in range(ROWS)], "text": [f"text {n} " + "x" * (n % 7) for n in range(ROWS)]}
    )
    for n in range(4):
        dataset.write_table(table.slice(n * ROWS // 4, ROWS // 4), str(tmp_path / "in" / f"{n}.parquet"))
    return tmp_path


def allow(folder: Path, rows: int) -> None:
    """Let the job score `rows` rows, plus at most one batch per actor."""
    new = folder / "allowed.new"
    new.write_text(str(rows))
    new.replace(folder / "allowed")


def seen(folder: Path) -> dict[int, list[str]]:
    """Return the ids completed by each actor's process; the last line may be incomplete."""
    return {int(f.name): f.read_text().split("\n")[:-1] for f in (folder / "seen").glob("*")}


def done_twice(folder: Path) -> set[str]:
    return repeated(id for ids in seen(folder).values() for id in ids)


def check_output(folder: Path) -> None:
    """Check that the output is complete and each row has the score of its text."""
    record = read_record(str(folder / "out"))
    assert record is not None
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (ROWS, ROWS, 0)
    found = dataset.table(str(folder / "out"))
    assert found.column("id").to_pylist() == [f"d{n:04}" for n in range(ROWS)]
    assert [len(t) % 6 for t in found.column("text").to_pylist()] == found.column("score").to_pylist()


def test_score_stage_recovers_from_actor_driver_and_head_kill(
    folder: Path, classifier: Path, head: Head
) -> None:
    allow(folder, int(0.3 * ROWS))
    process = start("score_job.py", head, folder, str(classifier), "2")
    kept = wait_for_checkpoints(folder, int(0.2 * ROWS), process)
    actors = seen(folder)
    os.kill(next(pid for pid, ids in actors.items() if ids), signal.SIGKILL)
    eventually(lambda: len(seen(folder)) == len(actors) + 1, 600, told=lambda: "no actor took its place")
    allow(folder, int(0.5 * ROWS))
    kept |= wait_for_checkpoints(folder, int(0.4 * ROWS), process)
    assert len(done_twice(folder)) <= BATCH, "no more than the killed actor's batch"
    process.kill()
    process.wait()
    kept |= checkpointed(folder / "out")
    assert not (folder / "out" / "record.json").exists()
    allow(folder, int(0.8 * ROWS))
    process = start("score_job.py", head, folder, str(classifier), "2")
    kept |= wait_for_checkpoints(folder, int(0.7 * ROWS), process)
    head.kill()
    assert process.wait() != 0, "a driver does not outlive its cluster"
    kept |= checkpointed(folder / "out")
    assert not (folder / "out" / "record.json").exists()
    allow(folder, 2 * ROWS)
    other = start_head(4)
    try:
        ended(start("score_job.py", other, folder, str(classifier), "2"), folder)
    finally:
        other.stop()
    check_output(folder)
    assert not done_twice(folder) & kept
    print(f"{len(done_twice(folder))} of {ROWS} rows scored twice")


@pytest.mark.parametrize("notice", [False, True])
def test_score_stage_recovers_from_node_kill(
    notice: bool, folder: Path, classifier: Path, head: Head
) -> None:
    (folder / "wait").touch()
    allow(folder, int(0.6 * ROWS))
    process = start("score_job.py", head, folder, str(classifier), "4")
    node = with_second_node(head, folder, process, cpus=3)
    try:
        kept = wait_for_checkpoints(folder, ROWS // 2, process)
        actors = seen(folder)
        if notice:
            announce_preemption(head, node, seconds=3600)
        os.kill(node.raylet(), signal.SIGKILL)
        allow(folder, 2 * ROWS)
        ended(process, folder)
    finally:
        node.stop()
    check_output(folder)
    assert len(seen(folder)) > len(actors), "actors were restarted on the node that is left"
    assert not done_twice(folder) & kept
    print(f"{len(done_twice(folder))} of {ROWS} rows scored twice")
