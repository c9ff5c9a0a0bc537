"""A node that is preempted with notice: training writes a checkpoint at once and continues from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killed import LONG_S, SECOND
from ray_head import Head, add_node, announce_preemption
from training_runs import TINY
from waiting import eventually

from safety_ray.core.artifact import read_record
from safety_ray.train.checkpoint import names
from safety_ray.train.metrics import Metrics

pytestmark = pytest.mark.covers("safety_ray.train", "safety_ray.compat.ray_preemption", "jobs.pretrain")
CPUS = 3
"""CPUs of a training worker: the head has room for one, the second node for another"""
STEPS = 3000
NOTICE_S = 60  # Ray Train replaces the workers only then, also if the node is lost before
ROOT = Path(__file__).parents[3]


def test_pretrain_stage_saves_before_preemption_and_continues(
    tmp_path: Path, write_rows: Callable[..., str], head: Head
) -> None:
    output = tmp_path / "out"
    settings: dict[str, Any] = {
        "rows": write_rows(tmp_path / "rows", length=64), "output": output, "batch_rows": 8, "log_every": 1,
        "workers": 2, "min_workers": 1, "cpus_per_worker": CPUS, "max_steps": STEPS,
        "checkpoint_every": STEPS, "epochs": 9999, **{f"model.{name}": value for name, value in TINY.items()},
    }  # fmt: skip
    words = [f"{name}={value}" for name, value in settings.items()]
    node = add_node(head, CPUS, SECOND)
    metrics = Metrics(str(output))
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "jobs.pretrain", *words], cwd=ROOT, stdout=log, stderr=log,
            # Training may end before Ray Train's default interval is over.
            env={**os.environ, "RAY_ADDRESS": head.address, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"},
        )  # fmt: skip

    def wait_for(holds: Callable[[], Any]) -> Any:
        found = eventually(lambda: holds() or job.poll() is not None, LONG_S, every=0.1)
        assert job.poll() is None, (tmp_path / "log").read_text()
        return found

    try:
        wait_for(lambda: metrics.progress()[0] and node.workers("RayTrainWorker"))
        announce_preemption(head, node, NOTICE_S)
        (saved,) = wait_for(lambda: names(f"{output}/checkpoints"))
        os.kill(node.raylet(), signal.SIGKILL)
        assert job.wait() == 0, (tmp_path / "log").read_text()
    finally:
        job.kill()
        node.stop()
    assert int(saved.removeprefix("step-")) < STEPS, "saved because of the notice"
    record = read_record(str(output))
    assert record is not None
    assert record["steps"] == STEPS
    assert [line["step"] for line in metrics.lines()] == list(range(1, STEPS + 1))
