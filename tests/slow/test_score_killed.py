"""SIGKILL during a scoring job: no row is lost or duplicated, and no checkpointed row is repeated."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from gate import allow
from killed import ended, start, wait_for_checkpoints, with_second_node
from ray_head import Head, Node, announce_preemption, start_head
from score_runs import (
    BATCH,
    ROWS,
    check_output,
    done_twice,
    seen,
    times,
    times_of_checkpointed,
    write_documents,
)
from waiting import eventually

from safety_ray.core.artifact import read_record

pytestmark = pytest.mark.covers(
    "jobs.score", "safety_ray.classifier", "safety_ray.core.dataset", "safety_ray.core.artifact"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_documents(tmp_path)
    return tmp_path


def test_score_stage_recovers_from_actor_driver_and_head_kill(
    folder: Path, classifier: Path, head: Head
) -> None:
    allow(folder, int(0.3 * ROWS))
    process = start("score_job.py", head, folder, str(classifier), "2")
    wait_for_checkpoints(folder, int(0.2 * ROWS), process)
    actors = seen(folder)
    os.kill(next(pid for pid, ids in actors.items() if ids), signal.SIGKILL)
    eventually(lambda: len(seen(folder)) == len(actors) + 1, 600, told=lambda: "no actor took its place")
    allow(folder, int(0.5 * ROWS))
    wait_for_checkpoints(folder, int(0.4 * ROWS), process)
    assert len(done_twice(folder)) <= BATCH, "no more than the killed actor's batch"
    process.kill()
    process.wait()
    after_driver = times_of_checkpointed(folder)
    assert not (folder / "out" / "record.json").exists()
    allow(folder, int(0.8 * ROWS))
    process = start("score_job.py", head, folder, str(classifier), "2")
    wait_for_checkpoints(folder, int(0.7 * ROWS), process)
    head.kill()
    assert process.wait() != 0, "a driver does not outlive its cluster"
    after_head = times_of_checkpointed(folder)
    assert len(after_head) > len(after_driver)
    assert not (folder / "out" / "record.json").exists()
    allow(folder, 2 * ROWS)
    other = start_head(4)
    try:
        ended(start("score_job.py", other, folder, str(classifier), "2"), folder)
    finally:
        other.stop()
    check_output(folder)
    done = times(folder)
    for checkpointed in (after_driver, after_head):
        assert not {id for id, before in checkpointed.items() if done[id] > before}
    record = read_record(str(folder / "out"))
    assert record is not None
    assert record["lost_work"]["runs"] == 2
    print(f"{len(done_twice(folder))} of {ROWS} rows scored twice")


def kill_processes(node: Node) -> None:
    """Kill the node at once: without their raylet, actors would still end the batches that they work on."""
    workers = node.workers("ray::")
    os.kill(node.raylet(), signal.SIGKILL)
    for worker in workers:
        worker.kill()


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
        kill_processes(node)
        allow(folder, 2 * ROWS)
        ended(process, folder)
    finally:
        node.stop()
    check_output(folder)
    assert len(seen(folder)) > len(actors), "actors were restarted on the node that is left"
    assert not done_twice(folder) & kept
    record = read_record(str(folder / "out"))
    assert record is not None
    lost = record["lost_work"]
    assert lost["workers"] + lost["nodes"] > 0
    assert lost["rows"] > 0
    print(f"{len(done_twice(folder))} of {ROWS} rows scored twice")
