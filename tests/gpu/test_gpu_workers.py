"""Gradient accumulation and numbers of workers on GPUs: the losses are those of one GPU, and of a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from token_rows import tokenizer, write_rows
from training_runs import losses, settings, start

__all__ = ["tokenizer", "write_rows"]


def test_losses_of_gpu_workers_match_one_cpu(tmp_path: Path, write_rows: Callable[..., str]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("two GPUs are needed")
    rows, found = write_rows(tmp_path / "rows"), {}
    for name, workers, more in (
        ("cpu", 1, {"device": "cpu"}),
        ("one", 1, {"device": "gpu"}),
        ("two", 2, {"device": "gpu", "micro_batch_rows": 2}),
    ):
        config = settings(rows, tmp_path / name, workers=workers, max_steps=6, **more)
        assert [process.wait(timeout=600) for process in start(config, workers)] == [0] * workers
        found[name] = [loss for _, loss, _ in losses(config.output)]
    assert found["one"] == pytest.approx(found["cpu"], rel=1e-3)
    assert found["two"] == pytest.approx(found["one"], rel=1e-4)
