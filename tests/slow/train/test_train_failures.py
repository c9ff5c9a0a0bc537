"""A diverging loss and a failing validation in a training run on Ray."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import TINY, validated_settings, with_heldout

from jobs import pretrain
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.train.checkpoint import names
from safety_ray.train.settings import PretrainConfig

pytestmark = pytest.mark.covers("safety_ray.train")
WriteRows = Callable[..., str]


def test_validation_logs_timeout_and_training_continues(
    write_rows: WriteRows, tmp_path: Path, ray_cluster: None
) -> None:
    config = validated_settings(with_heldout(tmp_path / "rows", write_rows), tmp_path / "out", timeout_s=0.01)
    record = pretrain.pretrain_model(replace(config, loggers=[], checkpoint_every=8))
    assert record["steps"] == 12
    lines = [json.loads(line) for line in (tmp_path / "out" / "validation.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": step, "error": "not done after validation.timeout_s=0.01 s"} for step in (8, 12)
    ]
    assert names(config.checkpoint_folder()) == ["step-00000012"]


def test_pretrain_stage_raises_user_error_for_divergence(
    write_rows: WriteRows, tmp_path: Path, ray_cluster: None
) -> None:
    values = {"batch_rows": 8, "log_every": 1, "workers": 1, "model": TINY, "output": str(tmp_path / "out")}
    diverging = {"lr": 1e30, "grad_clip": 0.0, "warmup_share": 0.0}
    config = from_dict(PretrainConfig, {**values, **diverging, "rows": write_rows(tmp_path / "rows")})
    before = signal.getsignal(signal.SIGINT)  # ignored if the tests run in the background of a shell
    with pytest.raises(UserError, match="at step"):
        pretrain.pretrain_model(config)
    assert signal.getsignal(signal.SIGINT) is before
