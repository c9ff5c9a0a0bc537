"""Training whose output folder is a URL: lines of metrics, checkpoints, export and reading the model back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file
from training_runs import losses, run, settings

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError
from safety_ray.evaluate import model as evaluated
from safety_ray.train import loggers, metrics
from safety_ray.train.metrics import Metrics
from safety_ray.train.model import build, longest_context
from safety_ray.train.settings import ModelConfig

OUTPUT = "memory://bucket/run"


@pytest.fixture(autouse=True)
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Storage without files, and a cache without copies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    yield fs
    if fs.exists("/bucket"):
        fs.rm("/bucket", recursive=True)


def test_metrics_on_url_keeps_lines_until_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = Metrics(OUTPUT), Metrics(OUTPUT)
    writer.append({"step": 1})
    assert reader.lines() == [{"step": 1}], "the first line is written at once"
    writer.append({"step": 2})
    assert reader.lines() == [{"step": 1}]
    writer.flush()
    assert reader.lines() == writer.lines() == [{"step": 1}, {"step": 2}]
    monkeypatch.setattr(metrics, "_WRITE_S", 0.0)
    resumed = Metrics(OUTPUT)
    resumed.append({"step": 3})
    assert reader.lines() == [{"step": 1}, {"step": 2}, {"step": 3}]
    resumed.forget_after(1)
    assert reader.lines() == [{"step": 1}]


def test_training_with_url_as_output_resumes_and_exports(
    tmp_path: Path, write_rows: Callable[..., str], alone: None, storage: Any
) -> None:
    rows = write_rows(tmp_path / "rows")
    whole = settings(rows, tmp_path / "whole")
    expected = run(whole)
    config = settings(rows, OUTPUT, checkpoint_every=3)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, stop)
    assert Metrics(OUTPUT).lines()[-1]["step"] >= 6, "all lines up to the checkpoint"
    assert run(config)["final_loss"] == expected["final_loss"]
    assert losses(OUTPUT) == losses(whole.output)
    assert {name.split("/")[3] for name in storage.find("/bucket")} == {
        "checkpoints",
        "metrics.jsonl",
        "model",
        "resumes.jsonl",
    }
    exported = load_file(f"{filesystem.local_copy(f'{OUTPUT}/model')}/model.safetensors")
    same = load_file(f"{whole.output}/model/model.safetensors")
    assert exported.keys() == same.keys()
    assert all(torch.equal(exported[name], same[name]) for name in same)
    # The next stages read the model from the URL.
    described = evaluated.describe(OUTPUT)
    assert described.folder == f"{OUTPUT.replace('://', ':///')}/model"
    assert evaluated.load(described.folder)[0].num_parameters() == expected["parameters"]
    assert longest_context(OUTPUT) == 32
    continued = build(ModelConfig(init=OUTPUT), described.load_tokenizer(), context=32, device="cpu")
    table = continued.network.get_input_embeddings().weight
    assert torch.equal(table, same["model.embed_tokens.weight"])


def test_loggers_check_rejects_tensorboard_on_url() -> None:
    loggers.check(["tensorboard"], "out")
    with pytest.raises(
        UserError, match=r"tensorboard writes files, which output=s3://b/out does not support"
    ):
        loggers.check(["tensorboard"], "s3://b/out")


def test_local_copy_downloads_each_state_once(tmp_path: Path, storage: Any) -> None:
    storage.pipe_file("/bucket/model/a/x", b"1")
    copy = Path(filesystem.local_copy("memory://bucket/model"))
    assert (copy / "a" / "x").read_bytes() == b"1"
    assert filesystem.local_copy("memory://bucket/model") == str(copy)
    storage.pipe_file("/bucket/model/a/x", b"22")
    assert (Path(filesystem.local_copy("memory://bucket/model")) / "a" / "x").read_bytes() == b"22"
    assert len(list(copy.parent.iterdir())) == 2, "no leftovers"
    assert filesystem.local_copy(str(tmp_path)) == str(tmp_path)
    with pytest.raises(UserError, match="'memory://bucket/none' does not exist"):
        filesystem.local_copy("memory://bucket/none")
