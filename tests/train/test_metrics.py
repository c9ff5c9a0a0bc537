"""Logged metrics match independent computations, and the loggers record them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import run, settings
from transformers import AutoTokenizer

from safety_ray.core.errors import UserError
from safety_ray.train import loggers
from safety_ray.train.data import TokenRows
from safety_ray.train.meter import peak_of
from safety_ray.train.metrics import Metrics, Resumes, Validations, summary_of
from safety_ray.train.model import build

WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    return write_rows(tmp_path_factory.mktemp("metrics") / "rows", cut=13)


def test_metrics_reports_loss_per_source(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", max_steps=1)
    run(config)
    (line,) = Metrics(config.output).lines()
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(f"{rows}/tokenizer")
    model = build(config.model, tokenizer, context=32, device="cpu").network
    ids, learn, *_ = map(torch.from_numpy, TokenRows(rows).read(np.arange(8)))
    unsafe = torch.zeros_like(learn)
    unsafe[[0, 3, 6], :13] = True
    for name, kept in (("unsafe", unsafe), ("raw", ~unsafe)):
        labels = ids.masked_fill(~(learn & kept), -100)
        expected = float(model(input_ids=ids, labels=labels).loss.detach())
        assert line[f"loss_{name}"] == pytest.approx(expected, rel=1e-5)
    assert {key for key in line if key.startswith("loss_")} == {"loss_raw", "loss_unsafe"}


def test_metrics_reports_throughput_mfu_and_wait_times(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", max_steps=12, log_every=6, peak_tflops=0.001)
    run(config)
    first, last = Metrics(config.output).lines()
    speed = (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])
    assert last["tokens_per_second"] == pytest.approx(speed, rel=0.2)
    tokenizer = AutoTokenizer.from_pretrained(f"{rows}/tokenizer")
    model = build(config.model, tokenizer, context=32, device="cpu")
    flops = 6 * sum(p.numel() for p in model.parameters()) + 12 * 2 * 32 * 32
    assert last["mfu"] == pytest.approx(last["tokens_per_second"] * flops / 1e9, rel=0.01)
    assert 0 <= last["data_wait"] < 1
    assert 0 < last["checkpoint_wait"] < 1
    assert (first["seconds_left"] > 0, last["seconds_left"]) == (True, 0)
    assert last["memory_gib"] > 0.1
    assert f"loss {last['loss']:.3f}" in summary_of(last)
    assert Metrics(config.output).progress() == (12, last["tokens"], f"· {summary_of(last)}")


def test_tensorboard_logger_matches_metrics_after_resume(tmp_path: Path, rows: str, alone: None) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = settings(rows, tmp_path / "out", loggers=["tensorboard"])

    def stop(line: dict[str, object]) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, stop)
    run(config)
    events_file = accumulator.EventAccumulator(f"{config.output}/tensorboard")
    events_file.Reload()
    lines = Metrics(config.output).lines()
    for name, key in (("loss", "loss"), ("loss/unsafe", "loss_unsafe"), ("lr", "lr")):
        events = events_file.Scalars(name)
        assert [event.step for event in events] == [line["step"] for line in lines] == list(range(1, 13))
        assert [event.value for event in events] == pytest.approx([line[key] for line in lines], rel=1e-6)


def test_loggers_check_rejects_missing_or_unknown_logger(
    tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        loggers.check(["wandb"], "out")
    with pytest.raises(UserError, match="unknown logger 'tensorbord'; choose from tensorboard, wandb"):
        settings(rows, tmp_path / "out", loggers=["tensorbord"])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_loggers_record_run_in_wandb_and_mlflow(
    tmp_path: Path, rows: str, alone: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    package = pytest.importorskip(name)
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    monkeypatch.setitem(os.environ, "MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    config = settings(rows, tmp_path / "out", loggers=[name], checkpoint_every=6)
    run(config)
    lines = Metrics(config.output).lines()
    if name == "wandb":
        assert list(Path(config.output).glob("wandb/offline-run-*/*.wandb"))
        return
    run_id = (Path(config.output) / "mlflow_id").read_text()
    history = package.MlflowClient().get_metric_history(run_id, "loss")
    assert [point.value for point in history] == pytest.approx([line["loss"] for line in lines])


def test_resumes_add_up_repeated_steps_and_seconds(tmp_path: Path) -> None:
    resumes = Resumes(str(tmp_path))
    assert resumes.lost_work() == {}
    resumes.add(10, 2.0, [{"step": 12, "seconds": 2.5}, {"step": 13, "seconds": 3.5}])
    resumes.add(20, 5.0, [{"step": 20, "seconds": 5.0}])  # killed right after its checkpoint
    resumes.add(20, 5.0, [{"step": 18, "seconds": 4.0}])  # with log_every, the last steps have no line
    resumes.add(0, 0.0, [{"step": 1, "seconds": 0.5}])  # killed before the first checkpoint
    assert Resumes(str(tmp_path)).lost_work() == {"restarts": 4, "steps": 4, "seconds": 2.0}


@pytest.mark.parametrize("cls", [Metrics, Resumes, Validations])
def test_lines_follow_an_incomplete_line_of_a_full_disk(
    cls: type[Metrics] | type[Resumes] | type[Validations], tmp_path: Path
) -> None:
    first = cls(str(tmp_path))
    Path(first.path).write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    resumed = cls(str(tmp_path))
    resumed.append({"step": 2})
    resumed.append({"step": 3})
    assert [line["step"] for line in resumed.lines()] == [1, 2, 3]
    assert first.lines() == resumed.lines()


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA H100 80GB HBM3", 989.0), ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA GH200 480GB", 989.0), ("NVIDIA L4", 121.0), ("NVIDIA L40", 0.0), ("NVIDIA L40S", 362.0),
        ("NVIDIA A10G", 70.0), ("NVIDIA A10", 125.0), ("NVIDIA RTX A1000", 0.0),
    ],
)  # fmt: skip
def test_peak_is_that_of_the_whole_name(name: str, peak: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_of(torch.device("cuda"), "bf16") == peak
