"""SIGKILL of a node with exchanged blocks: each exchange ends, with the result of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from exchange_job import BLOCKS, EXCHANGES, READ
from gate import ALL, allow, waiting
from killed import ended, on_node, start, wait_for, with_second_node
from ray_head import Head

pytestmark = pytest.mark.covers(
    "safety_ray.core.exchange", "jobs.ingest", "jobs.score", "jobs.rewrite", "jobs.pack"
)


@pytest.mark.parametrize("name", list(EXCHANGES))
def test_exchange_repeats_tasks_of_killed_node(
    name: str, tmp_path: Path, lossy_head: Head, ray_cluster: Head
) -> None:
    write, run, _, _ = EXCHANGES[name]
    write(tmp_path / "in")
    allow(tmp_path / READ, BLOCKS // 4)
    (tmp_path / "wait").touch()
    process = start("exchange_job.py", lossy_head, tmp_path, name)
    node = with_second_node(lossy_head, tmp_path, process, cpus=6)
    try:
        wait_for(lambda: on_node(node, waiting(tmp_path / READ)), tmp_path, process)
        os.kill(node.raylet(), signal.SIGKILL)
        allow(tmp_path / READ, ALL)
        ended(process, tmp_path)
    finally:
        node.stop()
    assert process.returncode == 0
    expected = json.loads(json.dumps(run(tmp_path / "in", tmp_path / "undisturbed")))
    assert json.loads((tmp_path / "result.json").read_text()) == expected
