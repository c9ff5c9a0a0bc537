"""A bad step is left out or ends the run, in every worker and after a restart alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import losses, run, settings, start

from safety_ray.train.checkpoint import Progress
from safety_ray.train.guard import Diverged, Guard
from safety_ray.train.metrics import Metrics
from safety_ray.train.step import Seen

WriteRows = Callable[..., str]
SKIP = {"on_bad_step": "skip", "spike": 1.4, "lr": 1e-2, "max_steps": 30}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    """Rows of which those of steps 22 and 23 (8 rows each) are noise."""
    return write_rows(tmp_path_factory.mktemp("guard") / "rows", rows=240, strange=range(168, 184))


def left_out(output: str | Path) -> dict[int, str]:
    return {line["step"]: line["left_out"] for line in Metrics(str(output)).lines() if "left_out" in line}


def test_a_leap_of_the_loss_is_left_out_and_counted(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", **SKIP, log_every=10)
    result = run(config)
    assert list(left_out(config.output)) == [22, 23]  # though only each tenth step has a line
    assert "the loss leapt to" in left_out(config.output)[22]
    lines = {line["step"]: line for line in Metrics(config.output).lines()}
    assert lines[20]["skipped"] == 0
    assert result["skipped"] == lines[30]["skipped"] == 2
    assert lines[23]["tokens"] == lines[22]["tokens"]
    taken = settings(rows, tmp_path / "taken", **{**SKIP, "spike": 0.0})
    assert run(taken)["skipped"] == 0
    with pytest.raises(Diverged, match=r"leapt to .* at step 22 of 30"):
        run(settings(rows, tmp_path / "stopped", **{**SKIP, "on_bad_step": "stop"}))


def test_leaving_out_is_the_same_after_a_restart_and_with_more_workers(
    tmp_path: Path, rows: str, alone: None
) -> None:
    whole = settings(rows, tmp_path / "whole", **SKIP)
    processes = start(settings(rows, tmp_path / "two", **SKIP, workers=2), world=2)
    run(whole)
    broken = settings(rows, tmp_path / "broken", **SKIP, checkpoint_every=11)

    def stop(line: dict[str, Any]) -> None:  # between the two noisy steps, right after a checkpoint
        if line["step"] == 23:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, stop)
    assert run(broken)["skipped"] == 2
    assert losses(broken.output) == losses(whole.output)
    assert [process.wait() for process in processes] == [0, 0]
    assert list(left_out(tmp_path / "two")) == [22, 23]
    assert json.loads((tmp_path / "two" / "record.json").read_text())["skipped"] == 2


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", on_bad_step="skip", max_bad_steps=3, lr=1e30, grad_clip=0.0,
                      warmup_share=0.0)  # fmt: skip
    with pytest.raises(Diverged, match="and 3 steps were left out in a row"):
        run(config)
    assert len(left_out(config.output)) == 2
    assert all(
        reason.startswith("the gradient's length became") for reason in left_out(config.output).values()
    )
    assert "NaN" not in Metrics(config.output).path.read_text()  # JSON has none


def test_a_gradient_that_is_no_number_is_a_bad_step(tmp_path: Path, rows: str) -> None:
    done = Progress(step=4)
    guard = Guard(settings(rows, tmp_path / "out", on_bad_step="skip"), done, 12)
    seen = Seen(2.0, 100, math.inf, None, {}, False)
    assert guard.judge(seen, 1e-3) == "the gradient's length became inf"
    assert (done.skipped, done.bad_in_a_row, done.recent) == (1, 1, [])
    assert guard.judge(Seen(2.0, 100, 1.0, None, {}, False), 1e-3) == ""
    assert (done.skipped, done.bad_in_a_row, done.recent) == (1, 0, [2.0])
