"""Settings and devices that cannot compute in float8. Its losses: slow/train/test_float8_emulated.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_runs import run, settings

from safety_ray.core.errors import UserError
from safety_ray.train import float8


@pytest.mark.parametrize("more", [{"compile": False}, {"compile": True, "precision": "fp32"}])
def test_float8_needs_compiled_blocks_and_bf16(more: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"fp8=true: needs compile=true.* and precision=bf16"):
        settings("rows", "out", fp8=True, **more)


def test_float8_is_refused_on_cpu(tmp_path: Path, write_rows: Callable[..., str], alone: None) -> None:
    rows = write_rows(tmp_path / "rows")
    config = settings(rows, tmp_path / "out", fp8=True, compile=True, precision="bf16")
    with pytest.raises(UserError, match="fp8=true: CPUs have no float8 matrix products; use fp8=false"):
        run(config)


def test_float8_names_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(UserError, match="torchao is not installed; pip install -r requirements"):
        float8.convert(torch.nn.ModuleList([torch.nn.Linear(16, 16)]))
