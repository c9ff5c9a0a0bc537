"""Ray's autoscaler (v2) with its fake provider: nodes come for the actors of a job, and go after its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from gate import allow
from killed import LONG_S, ended, start
from ray_head import FAKE_HEAD_ID, Head, add_node, start_head
from waiting import eventually

from safety_ray.core import dataset
from safety_ray.core.artifact import read_record

pytestmark = pytest.mark.covers("jobs.score", "safety_ray.classifier", "safety_ray.core.cluster")
ROOT = Path(__file__).parents[2]
HEAD_CPUS, NODE_CPUS, NODES = 4, 3, 2
ROWS, IDLE_S = 400, 10
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD = "ray.head.default"  # the name that this provider gives it
ACTORS = HEAD_CPUS + NODE_CPUS * (NODES - 1)
"""with the actor that skips finished rows, more than fit without the last node"""


def autoscaling(address: str, head_cpus: int = HEAD_CPUS) -> dict[str, Any]:
    """Return the configuration of an autoscaler of the cluster at `address`, with no worker at first."""
    none: dict[str, list[str]] = {
        name: []
        for name in (
            "setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands",
            "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
            "rsync_filter",
        )
    }  # fmt: skip
    worker = {"CPU": NODE_CPUS, "object_store_memory": 150_000_000}
    return none | {
        "cluster_name": "fake",
        "max_workers": NODES,
        "idle_timeout_minutes": IDLE_S / 60,
        # Not the type `fake_multinode`, whose defaults are in a file that Ray's wheel lacks.
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_ID,
            "launch_multiple": True,
        },
        "available_node_types": {
            HEAD: {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": NODES},
        },
        "head_node_type": HEAD,
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    }


def ingest(head: Head, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Start an ingest job on the cluster of `head`, as a user would."""
    (folder / "in.jsonl").write_text("".join(f'{{"text": "A text with number {n}."}}\n' for n in range(20)))
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.ingest", f"input={folder}/in.jsonl", f"output={folder}/out"],
        env={**os.environ, "RAY_ADDRESS": head.address, **variables}, cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture
def head() -> Iterator[Head]:
    started = start_head(HEAD_CPUS, autoscaling=autoscaling)
    yield started
    started.stop()


def seconds_until(holds: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> float:
    """Wait until `holds` while `process` runs, and return the seconds."""
    started = time.monotonic()
    eventually(lambda: holds() or (process and process.poll() is not None), LONG_S, every=0.2)
    assert holds(), "the job has ended"
    return time.monotonic() - started


def test_nodes_come_for_waiting_actors_and_go(head: Head, classifier: Path, tmp_path: Path) -> None:
    def workers() -> int:
        return len(head.raylets()) - 1

    rows = pa.table({"id": [f"d{n:03}" for n in range(ROWS)], "text": [f"text {n}" for n in range(ROWS)]})
    dataset.write_table(rows, str(tmp_path / "in" / "rows.parquet"))
    allow(tmp_path, 0)  # the job waits until all nodes have come
    assert workers() == 0
    process = start("score_job.py", head, tmp_path, str(classifier), str(ACTORS))
    try:
        first = seconds_until(lambda: workers() > 0, process)
        rest = seconds_until(lambda: workers() == NODES, process)
        eventually(lambda: len(list((tmp_path / "seen").glob("*"))) == ACTORS, LONG_S)
        allow(tmp_path, 2 * ROWS)
        ended(process, tmp_path)
    finally:
        process.kill()
    record = read_record(str(tmp_path / "out"))
    assert record is not None
    assert (record["rows_in"], record["rows_out"]) == (ROWS, ROWS)
    gone = seconds_until(lambda: workers() == 0)
    print(f"first node after {first:.0f} s, all after {first + rest:.0f} s, gone {gone:.0f} s after the job")


def test_job_on_head_without_cpus_gets_a_node(tmp_path: Path) -> None:
    """As with KubeRay: the head runs no tasks, and all workers are still to come."""
    head = start_head(0, autoscaling=partial(autoscaling, head_cpus=0))
    try:
        process = ingest(head, tmp_path)
        printed, _ = process.communicate(timeout=LONG_S)
    finally:
        head.stop()
    assert process.returncode == 0, printed
    assert "The cluster has 0 CPUs, and a stage needs 2: waiting for nodes." in printed
    record = read_record(str(tmp_path / "out"))
    assert record is not None
    assert record["rows_out"] == 20


def test_job_waits_for_a_node_that_joins_late(tmp_path: Path) -> None:
    head = start_head(0)
    try:
        process = ingest(head, tmp_path)
        assert process.stdout is not None
        lines = [next(line for line in process.stdout if "waiting for nodes" in line)]
        node = add_node(head, 2, "second")
        lines += process.stdout
        node.stop()
    finally:
        head.stop()
    assert process.wait() == 0, lines


def test_job_without_cpus_ends_with_one_sentence(tmp_path: Path) -> None:
    head = start_head(0)
    try:
        process = ingest(head, tmp_path, SAFETY_RAY_NODE_WAIT_S="0.1")
        printed, _ = process.communicate(timeout=LONG_S)
    finally:
        head.stop()
    assert process.returncode == 2
    assert printed.splitlines()[-1].startswith(
        "error: the Ray cluster has 0 CPUs, and a stage needs 2: no node was added within 0.1 s"
    )
    assert "Traceback" not in printed
