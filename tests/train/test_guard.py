"""A bad step is left out or ends the run, in every worker and after a restart alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from training_runs import NOISY, SKIP, left_out, run, settings

from safety_ray.train.checkpoint import Progress
from safety_ray.train.guard import Diverged, Guard
from safety_ray.train.metrics import Metrics
from safety_ray.train.step import Seen

WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    """Rows of which those of steps 22 and 23 (8 rows each) are noise."""
    return write_rows(tmp_path_factory.mktemp("guard") / "rows", **NOISY)


def test_guard_skips_and_counts_loss_spikes(tmp_path: Path, rows: str, alone: None) -> None:
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


def test_guard_ends_run_after_consecutive_bad_steps(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", on_bad_step="skip", max_bad_steps=3, lr=1e30, grad_clip=0.0,
                      warmup_share=0.0)  # fmt: skip
    with pytest.raises(Diverged, match="and 3 steps were left out in a row"):
        run(config)
    assert len(left_out(config.output)) == 2
    assert all(
        reason.startswith("the gradient's length became") for reason in left_out(config.output).values()
    )
    assert "NaN" not in Metrics(config.output).path.read_text()  # JSON has none


def test_guard_skips_nonfinite_gradient_norm(tmp_path: Path, rows: str) -> None:
    done = Progress(step=4)
    guard = Guard(settings(rows, tmp_path / "out", on_bad_step="skip"), done, 12)
    seen = Seen(2.0, 100, math.inf, None, {}, False)
    assert guard.judge(seen, 1e-3) == "the gradient's length became inf"
    assert (done.skipped, done.bad_in_a_row, done.recent) == (1, 1, [])
    assert guard.judge(Seen(2.0, 100, 1.0, None, {}, False), 1e-3) == ""
    assert (done.skipped, done.bad_in_a_row, done.recent) == (1, 0, [2.0])
