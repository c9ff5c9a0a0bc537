"""Bad steps are skipped or end the run, in every worker and after a restart."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from training_runs import NOISY, SKIP, run, settings, skipped

from safety_ray.train.checkpoint import Progress
from safety_ray.train.guard import Diverged, Guard
from safety_ray.train.metrics import Metrics
from safety_ray.train.step import StepResult

WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    """Rows in which steps 22 and 23 (8 rows each) are noise."""
    return write_rows(tmp_path_factory.mktemp("guard") / "rows", **NOISY)


def test_guard_skips_and_counts_loss_spikes(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", **SKIP, log_every=10)
    result = run(config)
    assert list(skipped(config.output)) == [22, 23]  # although only every tenth step is logged
    assert "the loss rose to" in skipped(config.output)[22]
    lines = {line["step"]: line for line in Metrics(config.output).lines()}
    assert lines[20]["skipped"] == 0
    assert result["skipped"] == lines[30]["skipped"] == 2
    assert lines[23]["tokens"] == lines[22]["tokens"]
    applied = settings(rows, tmp_path / "applied", **{**SKIP, "spike": 0.0})
    assert run(applied)["skipped"] == 0
    with pytest.raises(Diverged, match=r"rose to .* at step 22 of 30"):
        run(settings(rows, tmp_path / "stopped", **{**SKIP, "on_bad_step": "stop"}))


def test_guard_ends_run_after_consecutive_bad_steps(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", on_bad_step="skip", max_bad_steps=3, lr=1e30, grad_clip=0.0,
                      warmup_share=0.0)  # fmt: skip
    with pytest.raises(Diverged, match="and 3 steps were skipped in a row"):
        run(config)
    assert len(skipped(config.output)) == 2
    assert all(reason.startswith("the gradient norm became") for reason in skipped(config.output).values())
    assert "NaN" not in Path(Metrics(config.output).path).read_text()  # invalid in JSON


def test_guard_skips_nonfinite_gradient_norm(tmp_path: Path, rows: str) -> None:
    done = Progress(step=4)
    guard = Guard(settings(rows, tmp_path / "out", on_bad_step="skip"), done, 12)
    result = StepResult(2.0, 100, math.inf, None, {}, False, applied=False)
    assert guard.judge(result, 1e-3) == "the gradient norm became inf"
    assert (done.skipped, done.bad_in_a_row, done.recent) == (1, 1, [])
    assert guard.judge(StepResult(2.0, 100, 1.0, None, {}, False), 1e-3) == ""
    assert (done.skipped, done.bad_in_a_row, done.recent) == (1, 0, [2.0])
