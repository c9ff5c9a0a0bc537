"""Parallelism, checkpoint folders and document masks: same losses, and no attention between documents."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from training_runs import TINY, losses, run, settings, start
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_ray.core.errors import UserError
from safety_ray.train import parallel
from safety_ray.train.batches import document_positions
from safety_ray.train.data import TokenRows
from safety_ray.train.metrics import Metrics
from safety_ray.train.model import build

WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    """Rows of two documents, of which the second starts at token 13."""
    return write_rows(tmp_path_factory.mktemp("parallel") / "rows", cut=13)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_document_positions_isolate_packed_documents(tmp_path: Path, rows: str, attention: str) -> None:
    config = settings(rows, tmp_path / "out", model={**TINY, "attention": attention})
    tokenizer = AutoTokenizer.from_pretrained(f"{rows}/tokenizer")
    network = build(config.model, tokenizer, context=32, device="cpu").network
    ids, _, documents, _ = map(torch.from_numpy, TokenRows(rows).read(np.arange(4)))
    positions = document_positions(documents)
    assert positions[0, :16].tolist() == [*range(13), 0, 1, 2]
    with torch.no_grad():
        logits = network(input_ids=ids, position_ids=positions, use_cache=False).logits
        across = network(input_ids=ids).logits
        for row in range(4):
            for document in (slice(0, 13), slice(13, int((documents[row] >= 0).sum()))):
                alone = network(input_ids=ids[row : row + 1, document]).logits[0]
                torch.testing.assert_close(logits[row, document], alone, rtol=1e-4, atol=1e-5)
        assert (across[:, 20] - logits[:, 20]).abs().max() > 1e-3


@pytest.mark.parametrize(("share", "once"), [(1.0, True), (0.99, False)])
def test_gather_auto_depends_on_memory_for_weights_and_gradients(
    monkeypatch: pytest.MonkeyPatch, alone: None, share: float, once: bool
) -> None:
    model = torch.nn.Linear(10, 10)
    model.bias.requires_grad_(False)  # has no gradient
    needed = 110 * 2 + 100 * 4  # bf16 weights, fp32 gradient
    monkeypatch.setattr(parallel, "_CPU_BYTES", int(share * needed))
    for setting, expected in (("auto", once), ("step", True), ("use", False)):
        assert parallel.agreed_gather(setting, model, torch.device("cpu"), "bf16") is expected


@pytest.mark.parametrize(
    ("setting", "native", "precision"),
    [("auto", True, "bf16"), ("auto", False, "fp32"), ("bf16", False, "bf16"), ("fp32", True, "fp32")],
)
def test_train_precision_follows_setting_or_device(
    tmp_path: Path, rows: str, alone: None, monkeypatch: pytest.MonkeyPatch, setting: str, native: bool,
    precision: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(parallel, "fast_bf16", lambda device: native)
    result = run(settings(rows, tmp_path / "out", max_steps=1, precision=setting))
    assert (result["precision"], result["attention"]) == (precision, "eager")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype="auto")
    assert model.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    assert f"Trained in {precision} for 1 steps" in (tmp_path / "out" / "model" / "README.md").read_text()


def test_document_mask_loss_matches_separate_documents(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "masked", max_steps=1, model={**TINY, "document_mask": True})
    run(config)
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(f"{rows}/tokenizer")
    network = build(config.model, tokenizer, context=32, device="cpu").network
    total = torch.zeros(())
    count = 0
    ids, learn, *_ = map(torch.from_numpy, TokenRows(rows).read(np.arange(8)))
    for row in range(8):
        used = int(learn[row].sum())
        for document in (slice(0, 13), slice(13, used)):
            logs = network(input_ids=ids[row : row + 1, document]).logits[0, :-1].log_softmax(-1)
            total = total - logs.gather(1, ids[row, document][1:, None]).sum()
            count += used and len(logs)
        # The target of a document's last token is the first token of the next document.
        last = network(input_ids=ids[row : row + 1, :13]).logits[0, -1].log_softmax(-1)
        total, count = total - last[ids[row, 13]], count + 1
    assert losses(config.output)[0][1] == pytest.approx(float(total.detach()) / count, rel=1e-5)


def test_activation_checkpointing_changes_no_loss(tmp_path: Path, rows: str, alone: None) -> None:
    plain = settings(rows, tmp_path / "plain", max_steps=6)
    run(plain)
    checkpointed = settings(
        rows, tmp_path / "checkpointed", max_steps=6, activation_checkpointing=True, checkpoint_every=3
    )
    run(checkpointed)
    assert losses(checkpointed.output) == losses(plain.output)


def test_train_loop_resumes_from_fsspec_checkpoints(tmp_path: Path, rows: str, alone: None) -> None:
    whole = settings(rows, tmp_path / "whole")
    run(whole)
    config = settings(rows, tmp_path / "broken", checkpoints="memory://bucket/run", checkpoint_every=3)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, stop)
    run(config)
    assert losses(config.output) == losses(whole.output)
    kept = fsspec.filesystem("memory").ls("/bucket/run", detail=False)
    assert sorted(name.rsplit("/", 1)[-1] for name in kept) == ["step-00000009", "step-00000012"]
    assert not (tmp_path / "broken" / "checkpoints").exists()


def test_train_loop_saves_checkpoint_on_sigterm(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", max_steps=100_000, checkpoint_every=100_000)
    (process,) = start(config)
    while len(losses(config.output)) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    (kept,) = (Path(config.output) / "checkpoints").iterdir()
    step = int(kept.name.removeprefix("step-"))
    assert 10 <= step == len(losses(config.output))
    seen: list[int] = []

    def stop(line: dict[str, Any]) -> None:
        seen.append(line["step"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, stop)
    assert seen == [step + 1]
    assert Metrics(config.output).lines()[-1]["step"] == step + 1


def test_pretrain_config_rejects_invalid_worker_counts(tmp_path: Path, rows: str) -> None:
    elastic = settings(rows, tmp_path / "out", workers=8, min_workers=1)
    assert [elastic.rows_per_worker(workers) for workers in range(1, 9)] == [8, 4, 3, 2, 2, 2, 2, 1]
    with pytest.raises(UserError, match="min_workers=3: must be from 0 to workers=2"):
        settings(rows, tmp_path / "out", workers=2, min_workers=3)
