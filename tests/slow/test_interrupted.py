"""Ctrl-C during a job: exit code 130, one line on stderr, no process left; the same command resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from token_rows import tokenizer, write_rows
from training_runs import TINY
from waiting import eventually

from safety_ray.core import dataset
from safety_ray.core.artifact import read_record
from safety_ray.train.metrics import Metrics

pytestmark = pytest.mark.covers("safety_ray.train", "safety_ray.ingest", "safety_ray.classifier")
ROOT = Path(__file__).parents[2]
MARK = "SAFETY_RAY_INTERRUPTED_TEST"
MESSAGE = "\ninterrupted; run the same command again to resume.\n"
DOCUMENTS = 30_000
STEPS = 800
LONG_S = 600.0

__all__ = ["tokenizer", "write_rows"]


def start(folder: Path, job: str, *words: str) -> subprocess.Popen[bytes]:
    """Start `python -m jobs.<job>`, with a Ray of its own, and its output in FOLDER/stdout and stderr."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", f"jobs.{job}", *words],
            env={**environment, MARK: str(folder)}, cwd=ROOT, stdout=out, stderr=err, start_new_session=True,
            # A shell that runs pytest in the background makes its processes ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that a job with output in `folder` has started."""
    commands = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder):
                commands.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return commands


def run_until(folder: Path, job: str, words: list[str], ready: Callable[[], bool]) -> subprocess.Popen[bytes]:
    """Start a job and wait until `ready` returns true or it ends; retry if Ray does not start in time."""
    for _ in range(3):
        process = start(folder, job, *words)
        eventually(lambda process=process: process.poll() is not None or ready(), LONG_S, every=0.1)
        if process.poll() is None or "timed out during startup" not in (folder / "stderr").read_text():
            break
    return process


def interrupt(folder: Path, job: str, words: list[str], running: Callable[[], bool]) -> None:
    """Start a job and send SIGINT to its process group, as a terminal does, once `running` returns true."""
    process = run_until(folder, job, words, running)
    try:
        assert process.poll() is None, (folder / "stderr").read_text()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(LONG_S) == 130
    finally:
        process.kill()
    assert (folder / "stderr").read_text() == MESSAGE
    assert not (folder / "out" / "record.json").exists()
    eventually(lambda: not processes_of(folder), 60, told=lambda: processes_of(folder))


def resume(folder: Path, job: str, words: list[str]) -> dict[str, Any]:
    """Run the same command to its end and return the record."""
    process = run_until(folder, job, words, lambda: False)
    assert process.wait() == 0, (folder / "stderr").read_text()
    assert (folder / "stderr").read_text() == ""
    record = read_record(str(folder / "out"))
    assert record is not None
    return record


def test_pretrain_interrupted_resumes_from_checkpoint(tmp_path: Path, write_rows: Callable[..., str]) -> None:
    output = tmp_path / "out"
    words = [
        f"rows={write_rows(tmp_path / 'rows')}", f"output={output}", "batch_rows=8", "workers=1",
        "log_every=1", "checkpoint_every=5", "epochs=999", "precision=fp32", f"max_steps={STEPS}",
        *(f"model.{name}={value}" for name, value in TINY.items()),
    ]  # fmt: skip
    metrics = Metrics(str(output))
    interrupt(tmp_path, "pretrain", words, lambda: metrics.progress()[0] > 20)
    before = metrics.lines()
    assert 20 < len(before) < STEPS
    record = resume(tmp_path, "pretrain", words)
    assert record["steps"] == STEPS
    lines = metrics.lines()
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    kept = 5 * ((len(before) - 5) // 5)  # the last checkpoint may not have been finished
    assert lines[:kept] == before[:kept], "steps before the checkpoint were not repeated"


@pytest.mark.parametrize("job", ["ingest", "score"])
def test_data_job_interrupted_resumes(job: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    documents = pa.table(
        {
            "id": [f"d{n}" for n in range(DOCUMENTS)],
            "text": [f"text {n} " + "word " * 50 for n in range(DOCUMENTS)],
        }
    )
    for n in range(4):
        shard = documents.slice(n * DOCUMENTS // 4, DOCUMENTS // 4)
        dataset.write_table(shard, str(tmp_path / "in" / f"{n}.parquet"))
    words = [f"output={tmp_path}/out", f"{'input' if job == 'ingest' else 'documents'}={tmp_path}/in"]
    if job == "score":
        words.append(f"classifier={request.getfixturevalue('classifier')}")

    def running() -> bool:
        return job in (tmp_path / "stdout").read_text()

    interrupt(tmp_path, job, words, running)
    if job == "ingest":  # scoring all documents takes minutes; test_score_killed.py resumes a scoring job
        record = resume(tmp_path, job, words)
        assert (record["rows_in"], record["rows_out"]) == (DOCUMENTS, DOCUMENTS)
