"""`ray job stop` leaves output folders from which the same command resumes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import all_stages
import pytest
from gate import allow
from killed import checkpointed
from ray_head import Head, start_head
from score_runs import ROWS, check_output, done_twice, write_documents
from submitted import ROOT, log, stop_once, submit
from token_rows import tokenizer, write_rows
from training_runs import TINY

from benchmarks.chaos.__main__ import write_input
from benchmarks.chaos.outputs import contents, differences
from safety_ray.core.artifact import is_finished, read_record
from safety_ray.train.metrics import Metrics

pytestmark = pytest.mark.covers("jobs", "safety_ray.core.dataset", "safety_ray.core.job", "safety_ray.train")
STEPS = 800

__all__ = ["tokenizer", "write_rows"]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head node with a job server."""
    started = start_head(4, dashboard=True)
    yield started
    started.stop()


def test_stopped_scoring_job_resumes(head: Head, tmp_path: Path, classifier: Path) -> None:
    write_documents(tmp_path)
    script = str(ROOT / "tests" / "slow" / "score_job.py")
    path = f"PYTHONPATH={ROOT / 'tests'}"
    command = ["env", path, sys.executable, script, str(tmp_path), str(classifier), "1"]
    allow(tmp_path, ROWS // 2)
    stop_once(head, "scoring", command, lambda: len(checkpointed(tmp_path / "out")) >= ROWS // 3)
    kept = checkpointed(tmp_path / "out")
    assert len(kept) >= ROWS // 3
    assert not (tmp_path / "out" / "record.json").exists()
    allow(tmp_path, 2 * ROWS)
    resumed = submit(head, *command)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    check_output(tmp_path)
    assert not done_twice(tmp_path) & kept


def test_pipeline_stopped_after_the_start_of_stages_resumes(head: Head, tmp_path: Path) -> None:
    write_input(tmp_path / "documents")
    command = ["python", "-m", "jobs.pipeline", *all_stages.WORDS, f"input={tmp_path}/documents"]
    whole = submit(head, *command, f"output={tmp_path}/whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    runs = tmp_path / "stopped"
    resumed = [*command, f"output={runs}"]
    stopped = []
    for stage in all_stages.names():
        if not is_finished(str(runs / stage)):  # a stage may end before the job is stopped
            id, line = f"pipeline-{stage}", f"] {stage}: "
            stop_once(head, id, resumed, lambda id=id, line=line: line in log(head, id))
            stopped.append(stage)
    assert {"ingest", "pretrain", "finetune", "evaluate"} <= set(stopped)
    last = submit(head, *resumed)
    assert last.returncode == 0, last.stdout + last.stderr
    assert differences(contents(tmp_path / "whole"), contents(runs)) == (0, [])


def test_stopped_training_resumes(head: Head, tmp_path: Path, write_rows: Callable[..., str]) -> None:
    output = tmp_path / "out"
    words = [
        f"rows={write_rows(tmp_path / 'rows')}", f"output={output}", "batch_rows=8", "workers=1",
        "log_every=1", "checkpoint_every=5", "epochs=999", "precision=fp32", f"max_steps={STEPS}",
        *(f"model.{name}={value}" for name, value in TINY.items()),
    ]  # fmt: skip
    command = ["python", "-m", "jobs.pretrain", *words]
    metrics = Metrics(str(output))
    stop_once(head, "training", command, lambda: metrics.progress()[0] > 20)
    before = metrics.lines()
    assert 20 < len(before) < STEPS
    assert not (output / "record.json").exists()
    resumed = submit(head, *command)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    record = read_record(str(output))
    assert record is not None
    assert record["steps"] == STEPS
    lines = metrics.lines()
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    kept = 5 * ((len(before) - 5) // 5)  # the last checkpoint may not have been finished
    assert lines[:kept] == before[:kept], "steps before the checkpoint were not repeated"
