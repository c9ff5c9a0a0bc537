"""Folders that some workers do not see are refused before the first step."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.checkpoint import CheckpointException
from training_runs import run, settings

from jobs import pretrain
from safety_ray.train.shared import NotShared, check_seen, check_shared, marker


def test_check_seen_names_host_that_misses_the_file(tmp_path: Path, alone: None) -> None:
    with marker(str(tmp_path)) as name:
        check_seen("output", str(tmp_path), name)
        with pytest.raises(NotShared, match=f"/other': workers on {socket.gethostname()} do not"):
            check_seen("output", f"{tmp_path}/other", name)
    assert list(tmp_path.iterdir()) == []


def test_check_shared_creates_folder_and_reports_write_error(tmp_path: Path, alone: None) -> None:
    check_shared("checkpoints", f"{tmp_path}/a/b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotShared, match=r"checkpoints='.*/file' cannot be written: .*; give a folder"):
        check_shared("checkpoints", f"{tmp_path}/file")


def test_train_worker_refuses_output_that_driver_does_not_share(
    tmp_path: Path, write_rows: Callable[..., str], alone: None
) -> None:
    rows = write_rows(tmp_path / "rows")
    config = settings(rows, tmp_path / "out")
    worker = {"config": config, "model": config.model, "rows": rows, "marker": ".shared-elsewhere"}
    returned = pretrain.train_worker(worker)
    assert isinstance(returned["refused"], NotShared)
    assert not (tmp_path / "out").exists()


def test_train_loop_exports_before_last_checkpoint_fails(
    tmp_path: Path, write_rows: Callable[..., str], alone: None
) -> None:
    """A file in the place of the checkpoint's folder: its write fails, but the model is there."""
    config = settings(write_rows(tmp_path / "rows"), tmp_path / "out", max_steps=2, checkpoint_every=2)
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "checkpoints" / "step-00000002").touch()
    with pytest.raises(CheckpointException, match="step-00000002"):
        run(config)
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
