"""Workers and validation must fit the cluster together; shipped configs fit the cluster that they state."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import JOBS
from safety_ray.core.config import from_dict, load
from safety_ray.core.errors import UserError
from safety_ray.train.resources import check_fits, uses_gpus
from safety_ray.train.settings import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
YAMLS = sorted(path for job in ("pretrain", "finetune") for path in (ROOT / "configs" / job).glob("*.yaml"))
LAPTOP = (2, 0)  # CPUs and GPUs of a config that states no cluster


@pytest.mark.parametrize("path", YAMLS, ids=[f"{path.parent.name}/{path.name}" for path in YAMLS])
def test_shipped_yaml_fits_its_stated_cluster(path: Path) -> None:
    config = load(JOBS[path.parent.name][0]()[0], [str(path)])
    stated = re.search(r"^# Cluster: (\d+) GPUs, (\d+) CPUs\.$", path.read_text(), re.MULTILINE)
    gpus, cpus = map(int, stated.groups()) if stated else LAPTOP[::-1]
    check_fits(config, cpus=cpus, gpus=gpus)
    assert uses_gpus(config, gpus) == (gpus > 0)
    if gpus:
        with pytest.raises(UserError, match=r"validation\.gpus=0\.5"):
            check_fits(
                replace(config, validation=replace(config.validation, every=1, gpus=0.5)),
                cpus=cpus,
                gpus=gpus,
            )


@pytest.mark.parametrize(
    ("values", "gpus", "message"),
    [
        ({"device": "gpu"}, 8, ""),
        ({"device": "gpu"}, 7, "workers=8 need 8 GPUs and the cluster has 7"),
        ({"device": "gpu", "min_workers": 4}, 7, ""),
        ({"device": "gpu", "validation": {"every": 1, "gpus": 1}}, 9, ""),
        ({"device": "gpu", "validation": {"every": 1, "gpus": 0.5}}, 8, "needs 1 beside the 8 of"),
        ({"device": "gpu", "validation": {"every": 0, "gpus": 1}}, 8, ""),
        ({"device": "gpu", "min_workers": 4, "validation": {"every": 1, "gpus": 1}}, 8, "cluster has 8"),
        ({"device": "auto", "validation": {"every": 1, "gpus": 1}}, 8, "needs 1 beside the 8 of"),
        ({"device": "auto", "validation": {"every": 1, "gpus": 1}}, 7, ""),
        ({"device": "cpu", "validation": {"every": 1, "gpus": 1}}, 1, ""),
        ({"device": "cpu", "validation": {"every": 1, "gpus": 1}}, 0, "needs 1 beside the 0 of"),
        ({"validation": {"every": 1, "cpus": 9}}, 0, "validation.cpus=9 need 17 CPUs and the cluster has 16"),
    ],
)  # fmt: skip
def test_check_fits_counts_workers_and_validation(values: dict[str, Any], gpus: int, message: str) -> None:
    base = {"rows": "rows", "output": "out", "workers": 8, "batch_rows": 840}
    config = from_dict(PretrainConfig, {**base, **values})
    if not message:
        check_fits(config, cpus=16, gpus=gpus)
        return
    with pytest.raises(UserError, match=message):
        check_fits(config, cpus=16, gpus=gpus)
