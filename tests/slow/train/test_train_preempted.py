"""A node that is preempted with notice: training writes a checkpoint at once and continues from it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from killed import LONG_S, SECOND
from ray_head import Head, add_node, announce_preemption
from training_runs import TINY
from waiting import eventually

from jobs import pretrain
from safety_ray.core.config import from_dict
from safety_ray.train.checkpoint import names
from safety_ray.train.metrics import Metrics
from safety_ray.train.settings import PretrainConfig

pytestmark = pytest.mark.covers("safety_ray.train", "safety_ray.compat.ray_preemption", "jobs.pretrain")
CPUS = 3
"""CPUs of a training worker: the head has room for one, the second node for another"""
STEPS = 3000
NOTICE_S = 60  # Ray Train replaces the workers only then, also if the node is lost before


def test_pretrain_stage_saves_before_preemption_and_continues(
    tmp_path: Path, write_rows: Callable[..., str], ray_cluster: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")  # else training may end before
    config = from_dict(
        PretrainConfig,
        {
            "rows": write_rows(tmp_path / "rows", length=64), "output": str(tmp_path / "out"), "model": TINY,
            "batch_rows": 8, "log_every": 1, "workers": 2, "min_workers": 1, "cpus_per_worker": CPUS,
            "max_steps": STEPS, "checkpoint_every": STEPS, "epochs": 9999.0,
        },
    )  # fmt: skip
    node = add_node(ray_cluster, CPUS, SECOND)
    metrics, saved = Metrics(config.output), []

    def preempt() -> None:
        eventually(lambda: metrics.progress()[0] >= 8 and node.workers("RayTrainWorker"), LONG_S, every=0.1)
        announce_preemption(ray_cluster, node, NOTICE_S)
        saved.extend(eventually(lambda: names(config.checkpoint_folder()), LONG_S, every=0.1))
        os.kill(node.raylet(), signal.SIGKILL)

    preemption = threading.Thread(target=preempt)
    preemption.start()
    try:
        record = pretrain.pretrain_model(config)
    finally:
        preemption.join()
        node.stop()
    (step,) = [int(name.removeprefix("step-")) for name in saved]
    assert 8 <= step < STEPS, "saved because of the notice"
    assert record["steps"] == STEPS
    assert [line["step"] for line in metrics.lines()] == list(range(1, STEPS + 1))
