"""Invalid settings fail before any work, with a message that names a valid value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import pretrain
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.train.settings import FinetuneConfig, PretrainConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 20}, "workers=20: must be at most batch_rows=16"),
        ({"lr": 0.0}, "lr=0.0: must be above 0"),
        ({"epochs": -1.0}, "epochs=-1.0"),
        ({"batch_rows": 0}, "batch_rows=0"),
        ({"warmup_share": 0.9}, "their sum at most 1"),
        ({"model": {"heads": 3}}, "heads=3: must divide"),
        ({"model": {"kv_heads": 3}}, "kv_heads=3: must divide"),
        ({"model": {"layers": 0}}, "at least 1"),
        ({"model": {"rope_theta": -1}}, "model.rope_theta=-1.0 and .*must be above 0"),
        ({"model": {"lora_alpha": 0}}, "model.lora_alpha=0: must be above 0"),
        ({"validation": {"drop_threshold": -1}}, "validation.drop_threshold=-1.0 must be at least 0"),
        ({"validation": {"drop_by": "words"}}, "validation.drop_by=words is unknown"),
        ({"validation": {"drop_share": 1}}, "validation.drop_share=1.0 must be at least 0 and less than 1"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_pretrain_config_rejects_invalid_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(PretrainConfig, {"rows": "rows", "output": "out", **values})


def test_finetune_config_rejects_tagged_share_above_one() -> None:
    with pytest.raises(UserError, match="tagged_share=2"):
        from_dict(FinetuneConfig, {"model": "m", "chats": "c", "output": "o", "tagged_share": 2})


def test_pretrain_stage_validates_run_before_creating_output(
    tmp_path: Path, write_rows: Callable[..., str], ray_cluster: None
) -> None:
    rows, out = write_rows(tmp_path / "rows"), tmp_path / "out"

    def check_error(message: str, **values: Any) -> None:
        with pytest.raises(UserError, match=message):
            pretrain.pretrain_model(from_dict(PretrainConfig, {"rows": rows, "output": str(out), **values}))
        assert not out.exists()

    check_error("need 999 CPUs and the cluster has", workers=999, batch_rows=999, epochs=99.0)
    check_error("GPUs and the cluster has 0", device="gpu")
    check_error("batch_rows=128: 64 token rows in epochs=1.0 are less than a batch", batch_rows=128)
    check_error(r"model\.init: .*contains no model", model={"init": str(tmp_path / "nothing")})
    check_error("has no token rows", rows=str(tmp_path))
