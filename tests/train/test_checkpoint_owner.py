"""Checkpoints outside of the output folder belong to one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from safety_ray.core import artifact
from safety_ray.core.errors import UserError
from safety_ray.train.checkpoint import check_own
from safety_ray.train.settings import PretrainConfig


def test_run_without_output_refuses_checkpoints_of_another_run(tmp_path: Path) -> None:
    checkpoints, output = tmp_path / "checkpoints", tmp_path / "out"
    check_own(str(checkpoints), str(output))
    (checkpoints / "step-00000005").mkdir(parents=True)
    (checkpoints / "step-00000005" / ".metadata").touch()
    with pytest.raises(UserError, match=r"has checkpoints of another run; give an empty folder"):
        check_own(str(checkpoints), str(output))
    artifact.begin(str(output), PretrainConfig(rows="rows", output=str(output)), inputs={})
    check_own(str(checkpoints), str(output))
