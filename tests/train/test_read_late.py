"""A step that is read after the next one has been queued: losses, skips and checkpoints are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import CPU, NOISY, SKIP, losses, settings, skipped

from safety_ray.train.checkpoint import names
from safety_ray.train.loop import train
from safety_ray.train.settings import PretrainConfig

WriteRows = Callable[..., str]


def run(config: PretrainConfig, *, read_late: bool, **more: Any) -> None:
    train(config, config.model, config.rows, device=CPU, read_late=read_late, **more)


def weights(config: PretrainConfig) -> bytes:
    return (Path(config.output) / "model" / "model.safetensors").read_bytes()


def test_late_reading_skips_the_same_steps(tmp_path: Path, write_rows: WriteRows, alone: None) -> None:
    rows = write_rows(tmp_path / "rows", **NOISY)
    at_once, late = (settings(rows, tmp_path / name, **SKIP) for name in ("at_once", "late"))
    run(at_once, read_late=False)
    run(late, read_late=True)
    assert list(skipped(late.output)) == list(skipped(at_once.output)) == [22, 23]
    assert losses(late.output) == losses(at_once.output)
    assert weights(late) == weights(at_once)


def test_late_reading_resumes_from_a_checkpoint(tmp_path: Path, write_rows: WriteRows, alone: None) -> None:
    rows = write_rows(tmp_path / "rows")
    whole, broken = settings(rows, tmp_path / "whole"), settings(rows, tmp_path / "broken")
    run(whole, read_late=False)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, read_late=True, report=stop)
    run(broken, read_late=True)
    assert losses(broken.output) == losses(whole.output)
    assert weights(broken) == weights(whole)


def test_late_reading_saves_the_newest_step_before_a_preemption(
    tmp_path: Path, write_rows: WriteRows, alone: None
) -> None:
    rows = write_rows(tmp_path / "rows")
    whole = settings(rows, tmp_path / "whole")
    run(whole, read_late=False)
    config = settings(rows, tmp_path / "preempted", checkpoint_every=100)
    asked: list[bool] = []
    saved: list[str] = []

    def preempted() -> bool:
        asked.append(len(asked) == 4)  # in the fifth step
        return asked[-1]

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            saved.extend(names(config.checkpoint_folder()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, read_late=True, preempted=preempted, report=stop)
    assert saved == ["step-00000006"], "the sixth step was queued when the fifth was read"
    run(config, read_late=True)
    assert losses(config.output) == losses(whole.output)
    assert weights(config) == weights(whole)


def test_late_reading_saves_before_it_exits(tmp_path: Path, write_rows: WriteRows, alone: None) -> None:
    config = settings(write_rows(tmp_path / "rows"), tmp_path / "out", checkpoint_every=100)

    def leave() -> None:
        raise SystemExit(143)

    received: list[int] = []
    with pytest.raises(SystemExit):
        run(
            config, read_late=True, report=lambda line: received.append(line["step"]),
            preempted=lambda: 5 in received, after_preemption=leave,
        )  # fmt: skip
    assert names(config.checkpoint_folder()) == [f"step-{received[-1]:08}"]
    assert received[-1] == 8, "step 5 is read in step 6, so step 7 has the notice, and is read in step 8"
