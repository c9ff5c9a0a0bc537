"""Jobs in separate processes, to be killed: start them, wait for what they do, and kill parts of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.dataset as pads
from ray_head import Head, Node, add_node
from waiting import eventually

SECOND = "second_node"
"""resource of the node that is killed"""
LONG_S = 600.0


def start(script: str, head: Head, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Run `python script FOLDER words…` on the cluster of `head`, with its output in FOLDER/log."""
    path = Path(__file__).with_name(script)
    environment = {
        **os.environ,
        "RAY_ADDRESS": head.address,
        "PYTHONPATH": f"{path.parents[2]}{os.pathsep}{path.parents[1]}",
    }
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(path), str(folder), *words],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


@contextmanager
def job(folder: Path, prefer_second: bool = True) -> Iterator[None]:
    """In the job: connect to the cluster, and create FOLDER/done at the end of the block.

    If FOLDER/wait exists, the job waits until a node that the test adds joins.
    A driver that connects while two nodes run on this machine may attach to the node that is killed. With
    `prefer_second`, all work runs on the second node while it exists.
    """
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from safety_ray.core import cluster
    from safety_ray.core.job import quiet

    quiet()
    cluster.start()
    two_nodes = (folder / "wait").exists()
    (folder / "joined").touch()
    while (folder / "wait").exists():
        time.sleep(0.1)
    if two_nodes:
        second = NodeAffinitySchedulingStrategy(second_node_id(), soft=True)
        if prefer_second:
            ray.data.DataContext.get_current().scheduling_strategy = second
    yield
    (folder / "done").touch()


def with_second_node(head: Head, folder: Path, process: subprocess.Popen[bytes], cpus: int) -> Node:
    """Add a node once the job in `process` has joined, then let the job continue."""
    eventually(lambda: (folder / "joined").exists() or process.poll() is not None, LONG_S)
    node = add_node(head, cpus, SECOND)
    (folder / "wait").unlink()
    return node


def second_node_id() -> str:
    """In the job: return the id of the second node, once it has joined."""
    import ray

    found = eventually(
        lambda: [node["NodeID"] for node in ray.nodes() if node["Alive"] and SECOND in node["Resources"]],
        LONG_S,
    )
    return str(found[0])


def checkpointed(output: Path) -> set[str]:
    """Return the ids of rows whose write task has finished, in all passes that are not finished."""
    ids: set[str] = set()
    for file in output.rglob("_checkpoint*/**/*.parquet"):
        if not file.name.endswith(".pending.parquet"):
            try:
                ids.update(pads.dataset(file).to_table().column(0).to_pylist())
            except (OSError, pa.ArrowInvalid):  # being written, or its pass has just finished
                continue
    return ids


def wait_for_checkpoints(folder: Path, rows: int, process: subprocess.Popen[bytes]) -> set[str]:
    """Wait for at least `rows` checkpointed ids while `process` runs, and return them."""

    def enough() -> set[str] | None:
        found = checkpointed(folder / "out")
        return found if len(found) >= rows else None

    found: set[str] = wait_for(enough, folder, process)
    return found


def wait_for(holds: Callable[[], Any], folder: Path, process: subprocess.Popen[bytes]) -> Any:
    """Wait until the value of `holds` is true while `process` runs, and return the value."""

    def checked() -> Any:
        assert process.poll() is None, (folder / "log").read_text()
        return holds()

    return eventually(checked, LONG_S, every=0.1)


def kill_driver(process: subprocess.Popen[bytes], workers: set[int]) -> None:
    """Kill a job unless it has ended, and wait until Ray has ended its `workers`, which could still write."""
    process.kill()
    process.wait()
    for pid in workers:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(LONG_S)


def on_node(node: Node, workers: set[int]) -> set[int]:
    """Return those of the processes `workers` that run tasks on `node`."""
    return workers & {process.pid for process in node.workers("ray::")}


def ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for a job that is not killed, and check that it succeeded."""
    process.wait()
    assert (folder / "done").exists(), (folder / "log").read_text()
