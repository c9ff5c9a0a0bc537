"""SIGKILL of a worker and a node during a report: the card is that of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from gate import ALL, allow, waiting
from killed import ended, kill_driver, on_node, start, wait_for, with_second_node
from ray_head import Head
from report_job import COUNT
from small_datasets import write_rewritten, write_scored

from jobs.report import ReportConfig, write_report_card
from safety_ray.core.config import load

pytestmark = pytest.mark.covers("jobs.report", "safety_ray.report")
DOCUMENTS, FILES = 400, 8
CARD = ("card.json", "card.html", "README.md")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Head) -> list[str]:
    """Arguments of the job, without its output."""
    folder = tmp_path_factory.mktemp("inputs")
    scored = write_scored(folder / "scored", DOCUMENTS, split=False, files=FILES)
    write_rewritten(folder / "rewritten", scored, files=FILES)
    return [f"scored={folder}/scored", f"rewritten={folder}/rewritten", "batch_rows=20"]


def check_card(process: subprocess.Popen[bytes], folder: Path, inputs: list[str]) -> None:
    ended(process, folder)
    assert process.returncode == 0
    write_report_card(load(ReportConfig, [*inputs, f"output={folder}/undisturbed"]))
    for name in CARD:
        assert (folder / "out" / name).read_bytes() == (folder / "undisturbed" / name).read_bytes(), name


def test_report_repeats_tasks_of_killed_worker_and_driver(
    inputs: list[str], tmp_path: Path, head: Head, ray_cluster: Head
) -> None:
    words, gate = [*inputs, f"output={tmp_path}/out"], tmp_path / COUNT
    allow(gate, FILES // 2)
    process = start("report_job.py", head, tmp_path, *words)
    workers = wait_for(lambda: waiting(gate), tmp_path, process)
    os.kill(min(workers), signal.SIGKILL)
    # Among those that wait: the killed one, the others, and the one in its place.
    workers = wait_for(lambda: waiting(gate) - workers, tmp_path, process)
    kill_driver(process, waiting(gate))
    assert not (tmp_path / "out" / "record.json").exists()
    allow(gate, ALL)
    check_card(start("report_job.py", head, tmp_path, *words), tmp_path, inputs)


def test_report_repeats_tasks_of_killed_node(
    inputs: list[str], tmp_path: Path, lossy_head: Head, ray_cluster: Head
) -> None:
    gate = tmp_path / COUNT
    allow(gate, FILES // 2)
    (tmp_path / "wait").touch()
    process = start("report_job.py", lossy_head, tmp_path, *inputs, f"output={tmp_path}/out")
    node = with_second_node(lossy_head, tmp_path, process, cpus=6)
    try:
        wait_for(lambda: on_node(node, waiting(gate)), tmp_path, process)
        os.kill(node.raylet(), signal.SIGKILL)
        allow(gate, ALL)
        check_card(process, tmp_path, inputs)
    finally:
        node.stop()
