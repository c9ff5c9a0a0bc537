"""SIGKILL of workers, their controller, a node, the driver and the head: losses and weights do not change."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from gate import ALL, allow
from killed import SECOND, ended, kill_driver, wait_for, with_second_node
from killed import start as start_job
from ray_head import Head, add_node, start_head
from training_runs import TINY, losses, run, settings, start

from jobs import pretrain
from safety_ray.core.artifact import read_record
from safety_ray.core.config import from_dict
from safety_ray.train.checkpoint import names
from safety_ray.train.metrics import Metrics
from safety_ray.train.settings import PretrainConfig

pytestmark = pytest.mark.covers("safety_ray.train")
WriteRows = Callable[..., str]
CPUS = 3
"""CPUs of a training worker: a node of the test below has room for one"""
EVERY, LOST = 10, 3
"""steps between checkpoints, and steps after the checkpoint at which a process is killed"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    """Rows of two documents, the second starting at token 13."""
    return write_rows(tmp_path_factory.mktemp("killed") / "rows", cut=13)


def test_pretrain_stage_recovers_from_worker_controller_node_driver_and_head_kill(
    tmp_path: Path, rows: str, head: Head
) -> None:
    more = {"max_steps": 60, "checkpoint_every": EVERY, "workers": 2, "cpus_per_worker": CPUS, "epochs": 99.0}
    undisturbed = settings(rows, tmp_path / "undisturbed", **more)
    assert [process.wait() for process in start(undisturbed, world=2)] == [0, 0]
    expected = losses(undisturbed.output)
    assert [step for step, *_ in expected] == list(range(1, 61))

    output = tmp_path / "out"
    words = [f"rows={rows}", f"output={output}", "batch_rows=8", "log_every=1", "precision=fp32"]
    words += [f"{name}={value}" for name, value in more.items()]
    words += [f"model.{name}={value}" for name, value in TINY.items()]

    def pause(checkpoint: int, process: subprocess.Popen[bytes]) -> None:
        """Let the training run until it pauses after a checkpoint, which is then complete."""
        allow(tmp_path, checkpoint + LOST - 1)
        wait_for(lambda: Metrics(str(output)).progress()[0] == checkpoint + LOST, tmp_path, process)
        wait_for(lambda: f"step-{checkpoint:08}" in names(f"{output}/checkpoints"), tmp_path, process)

    allow(tmp_path, 0)
    (tmp_path / "wait").touch()
    process = start_job("train_job.py", head, tmp_path, *words)
    nodes = [with_second_node(head, tmp_path, process, CPUS)]
    try:
        pause(EVERY, process)
        (worker,) = nodes[0].workers("RayTrainWorker")
        worker.kill()
        pause(2 * EVERY, process)
        workers = {w.pid for node in (head, nodes[0]) for w in node.workers("RayTrainWorker")}
        (controller,) = head.workers("TrainController")
        controller.kill()
        assert process.wait() == 2
        assert "error: the controller of the training ended" in (tmp_path / "log").read_text()
        kill_driver(process, workers)
        process = start_job("train_job.py", head, tmp_path, *words)
        pause(3 * EVERY, process)
        os.kill(nodes[0].raylet(), signal.SIGKILL)
        nodes.append(add_node(head, CPUS, SECOND))
        pause(4 * EVERY, process)
        workers = {w.pid for node in (head, nodes[1]) for w in node.workers("RayTrainWorker")}
        assert len(workers) == 2
        kill_driver(process, workers)
        process = start_job("train_job.py", head, tmp_path, *words)
        pause(5 * EVERY, process)
        head.kill()
        assert process.wait() != 0, "a driver does not outlive its cluster"
        assert not (output / "record.json").exists()
        allow(tmp_path, ALL)
        other = start_head(2 * CPUS)
        nodes.append(other)
        ended(start_job("train_job.py", other, tmp_path, *words), tmp_path)
    finally:
        process.kill()
        for node in nodes:
            node.stop()
    assert losses(output) == expected
    weights = "model/model.safetensors"
    assert (output / weights).read_bytes() == (Path(undisturbed.output) / weights).read_bytes()
    record = read_record(str(output))
    assert record is not None
    assert record["lost_work"].pop("seconds") > 0
    assert record["lost_work"] == {"restarts": 5, "steps": 5 * LOST}


def test_pretrain_stage_recovers_from_killed_worker(
    tmp_path: Path, write_rows: WriteRows, ray_cluster: Head, alone: None
) -> None:
    output = tmp_path / "out"
    config = from_dict(
        PretrainConfig,
        {
            "rows": write_rows(tmp_path / "rows", length=64), "output": str(output), "model": TINY,
            "batch_rows": 8, "log_every": 1, "workers": 2, "min_workers": 1, "max_steps": 150,
            "checkpoint_every": 5, "epochs": 99.0, "precision": "fp32",
        },
    )  # fmt: skip
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(ray_cluster, Metrics(str(output)), killed))
    killer.start()
    record = pretrain.pretrain_model(config)
    killer.join()
    assert killed[0] < 150, "killed before the last step"
    lines = Metrics(str(output)).lines()
    assert [line["step"] for line in lines] == list(range(1, 151))
    assert record["steps"] == 150
    assert record["tokens"] == lines[-1]["tokens"] > 150 * 8 * 50
    undisturbed = replace(config, output=str(tmp_path / "whole"), workers=1, min_workers=0)
    run(undisturbed)
    found, expected = ([loss for _, loss, _ in losses(c.output)] for c in (config, undisturbed))
    assert found == pytest.approx(expected, rel=1e-3)


def kill_a_worker(head: Head, metrics: Metrics, killed: list[int]) -> None:
    """Kill a training worker once eight steps are done, and record the number of steps done by then."""
    while len(metrics.lines()) < 8:
        time.sleep(0.01)
    head.workers("RayTrainWorker")[0].kill()
    killed.append(len(metrics.lines()))


def test_train_loop_resumes_after_sigkill_with_same_losses(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "killed", max_steps=150, checkpoint_every=3)
    (process,) = start(config)
    while len(losses(config.output)) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 10 <= len(losses(config.output)) < 150
    run(config)
    undisturbed = settings(rows, tmp_path / "whole", max_steps=150, checkpoint_every=150)
    run(undisturbed)
    assert losses(config.output) == losses(undisturbed.output)


def test_pretrain_node_shards_match_one_worker(tmp_path: Path, rows: str, alone: None) -> None:
    plain = settings(rows, tmp_path / "plain", max_steps=6)
    nodes = settings(rows, tmp_path / "nodes", max_steps=6, workers=4, shard_within="node",
                     activation_checkpointing=True)  # fmt: skip
    processes = start(nodes, world=4, per_node=2)
    run(plain)
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert np.array(losses(nodes.output)) == pytest.approx(np.array(losses(plain.output)), rel=1e-4)
    # One worker resumes from the checkpoint of four workers on two nodes, without activation checkpointing.
    fsspec.filesystem("file").rm(f"{nodes.output}/checkpoints/step-00000006", recursive=True)
    seen: list[int] = []
    run(settings(rows, Path(nodes.output), max_steps=6), lambda line: seen.append(line["step"]))
    assert seen == [5, 6]
    assert np.array(losses(nodes.output)) == pytest.approx(np.array(losses(plain.output)), rel=1e-4)
