"""Training processes, as torchrun starts them: same losses and same skipped steps as one process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import NOISY, SKIP, losses, run, settings, skipped, start

from safety_ray.train.metrics import Metrics

pytestmark = pytest.mark.covers("safety_ray.train")
WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    return write_rows(tmp_path_factory.mktemp("train") / "rows")


def test_train_loop_loss_is_same_for_two_workers(tmp_path: Path, rows: str, alone: None) -> None:
    single = settings(rows, tmp_path / "single")
    processes = start(settings(rows, tmp_path / "two", workers=2, keep=9), world=2)
    run(single)
    assert [process.wait() for process in processes] == [0, 0]
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    assert (record["rows_in"], record["rows_out"], record["steps"]) == (64, 1, 12)
    expected = losses(single.output)
    assert len(expected) == 12
    assert np.array(losses(tmp_path / "two")) == pytest.approx(np.array(expected), rel=1e-4)

    # One worker resumes from a checkpoint of two workers.
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000012")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000008")
    seen: list[int] = []
    run(settings(rows, tmp_path / "two"), lambda line: seen.append(line["step"]))
    assert seen == list(range(5, 13))
    assert np.array(losses(tmp_path / "two")) == pytest.approx(np.array(expected), rel=1e-4)


def test_train_loop_loss_is_same_for_workers_with_unequal_rows(
    tmp_path: Path, rows: str, alone: None
) -> None:
    """Eight rows: 2, 3 and 3, the first with a row of padding; micro-batches of 2 rows and 1."""
    single = settings(rows, tmp_path / "single")
    processes = start(settings(rows, tmp_path / "three", workers=3, micro_batch_rows=2), world=3)
    run(single)
    assert [process.wait() for process in processes] == [0, 0, 0]
    expected = losses(single.output)
    assert len(expected) == 12
    assert np.array(losses(tmp_path / "three")) == pytest.approx(np.array(expected), rel=1e-4)
    record = json.loads((tmp_path / "three" / "record.json").read_text())
    assert record["tokens"] == Metrics(single.output).lines()[-1]["tokens"]


def test_guard_skips_same_steps_after_resume_and_with_workers(
    tmp_path: Path, write_rows: WriteRows, alone: None
) -> None:
    rows = write_rows(tmp_path / "rows", **NOISY)
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
    assert list(skipped(tmp_path / "two")) == [22, 23]
    assert json.loads((tmp_path / "two" / "record.json").read_text())["skipped"] == 2
