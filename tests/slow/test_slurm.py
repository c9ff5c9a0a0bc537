"""The Slurm script on two nodes, each with its own network, processes and Ray; only Slurm is replaced."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import isolated
import pytest
from submitted import ROOT
from token_rows import tokenizer, write_rows
from training_runs import TINY

from safety_ray.core.artifact import read_record
from safety_ray.train.metrics import Metrics

pytestmark = pytest.mark.covers("jobs.pretrain", "safety_ray.train", "safety_ray.core.cluster")
STEPS = 6

__all__ = ["tokenizer", "write_rows"]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `sbatch deploy/slurm.sh COMMAND` on two nodes of its own."""
    probe = isolated.run("--net", "ip", "link", "add", "name", "a", "type", "veth")
    if probe.returncode:
        pytest.skip(f"this process cannot create nodes: {probe.stderr.strip()}")
    nodes = str(ROOT / "tests/slow/slurm_nodes.sh")
    return isolated.run("--net", nodes, str(folder), "deploy/slurm.sh", *command)


def test_slurm_script_trains_on_both_nodes(tmp_path: Path, write_rows: Callable[..., str]) -> None:
    output = tmp_path / "out"
    done = run(
        tmp_path / "slurm", "python", "-m", "jobs.pretrain", f"rows={write_rows(tmp_path / 'rows')}",
        # Each worker needs all CPUs of a node.
        f"output={output}", "workers=2", f"cpus_per_worker={os.cpu_count()}",
        "batch_rows=8", "log_every=1", f"max_steps={STEPS}", "precision=fp32",
        *(f"model.{name}={value}" for name, value in TINY.items()),
    )  # fmt: skip
    said = done.stdout + done.stderr + (tmp_path / "slurm" / "node2.log").read_text()
    assert done.returncode == 0, said
    assert "Ray dashboard: http://" in done.stdout, "the job has joined the cluster of symmetric-run"
    record = read_record(str(output))
    assert record is not None
    assert record["steps"] == STEPS
    assert [line["step"] for line in Metrics(str(output)).lines()] == list(range(1, STEPS + 1))
    assert os.environ["RAY_AUTH_TOKEN"] not in said


def test_slurm_script_returns_exit_code_of_its_command(tmp_path: Path) -> None:
    done = run(tmp_path / "slurm", "python", "-m", "jobs.pretrain", "row=nowhere")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: 'row': unknown setting 'row'; the nearest is 'rows'" in done.stderr
