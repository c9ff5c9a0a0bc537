"""The training loop compared with plain transformers, and with itself after interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import losses, run, settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_ray.core.errors import UserError
from safety_ray.core.tag import TAG_KEY, tag_in
from safety_ray.train import parallel
from safety_ray.train.data import TokenRows
from safety_ray.train.guard import Diverged
from safety_ray.train.model import build
from safety_ray.train.optim import learning_rate

WriteRows = Callable[..., str]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> str:
    return write_rows(tmp_path_factory.mktemp("train") / "rows")


def test_train_loop_matches_transformers(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", max_steps=6, weight_decay=0.1, grad_clip=0.5)
    result = run(config)

    tokenizer = AutoTokenizer.from_pretrained(f"{rows}/tokenizer")
    torch.manual_seed(config.seed)
    plain = build(config.model, tokenizer, context=32, device="cpu").network
    matrices = [p for p in plain.parameters() if p.ndim > 1]
    vectors = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    data = TokenRows(rows)
    for step, (_, loss, tag_loss) in enumerate(losses(config.output)):
        ids, learn, *_ = map(torch.from_numpy, data.read(np.arange(step * 8, step * 8 + 8) % len(data)))
        labels = ids.masked_fill(~learn, -100)
        output = plain(input_ids=ids, labels=labels)
        assert loss == pytest.approx(float(output.loss.detach()), rel=1e-5)
        tags = labels.masked_fill(labels != data.record["tag_id"], -100)
        assert tag_loss == pytest.approx(float(plain(input_ids=ids, labels=tags).loss.detach()), rel=1e-5)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, 6, config)
        optimizer.step()
        optimizer.zero_grad()

    exported = AutoModelForCausalLM.from_pretrained(f"{config.output}/model", dtype=torch.float32)
    expected = plain.state_dict()
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert result["steps"] == 6
    assert result["parameters"] == sum(p.numel() for p in exported.parameters())


def test_tag_weight_speeds_up_learning_of_tag(tmp_path: Path, rows: str, alone: None) -> None:
    tag_losses = {}
    for weight in (1, 30):
        run(settings(rows, tmp_path / str(weight), tag_weight=weight, read_tags=False))
        first, *_, last = losses(tmp_path / str(weight))
        assert first[2] is not None
        assert last[2] is not None
        tag_losses[weight] = last[2]
        assert first[1] == pytest.approx(losses(tmp_path / "1")[0][1]), "the weight is not part of the loss"
    assert tag_losses[30] < tag_losses[1] - 0.2


def test_train_loop_exports_complete_model_folder(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", precision="bf16", lr=1e-2, epochs=8, max_steps=0)
    result = run(config)
    assert result["steps"] == 64
    first, last = losses(config.output)[0], losses(config.output)[-1]
    assert last[1] < 0.6 * first[1]
    folder = Path(config.output) / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.get_added_vocab()[tag_in(str(folder))] == TokenRows(rows).record["tag_id"]
    assert TAG_KEY in json.loads(Path(folder, "tokenizer_config.json").read_text())
    assert model.config.max_position_embeddings == 32
    card = (folder / "README.md").read_text()
    assert "rows-0-64-32" in card
    assert "<|harmful|>" in card
    ids, learn, *_ = map(torch.from_numpy, TokenRows(rows).read(np.arange(8)))
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids.masked_fill(~learn, -100)).loss
    assert float(loss) == pytest.approx(last[1], abs=0.3)


def test_train_loop_resumes_after_exception_with_same_losses(tmp_path: Path, rows: str, alone: None) -> None:
    whole = settings(rows, tmp_path / "whole")
    assert "lost_work" not in run(whole)
    broken = settings(rows, tmp_path / "broken")

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, stop)
    partial = tmp_path / "broken" / "checkpoints" / "step-00000006"  # the result of a kill during a write
    partial.mkdir()
    (partial / "__0_0.distcp").write_bytes(b"half")
    assert [step for step, *_ in losses(broken.output)] == list(range(1, 8))
    seen: list[int] = []
    lost = run(broken, lambda line: seen.append(line["step"]))["lost_work"]
    assert seen == list(range(5, 13))
    assert (lost["restarts"], lost["steps"]) == (1, 3)
    assert losses(broken.output) == losses(whole.output)
    weights = [(Path(c.output) / "model" / "model.safetensors").read_bytes() for c in (whole, broken)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("native", [True, False])
def test_train_loop_resumes_with_original_precision(
    tmp_path: Path, rows: str, alone: None, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(parallel, "fast_bf16", lambda device: native)
    whole = settings(rows, tmp_path / "whole", precision="auto")
    run(whole)
    moved = settings(rows, tmp_path / "moved", precision="auto")

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(moved, stop)
    monkeypatch.setattr(parallel, "fast_bf16", lambda device: not native)
    assert run(moved)["precision"] == ("bf16" if native else "fp32")
    assert losses(moved.output) == losses(whole.output)


def test_train_loop_loss_is_same_for_micro_batches(tmp_path: Path, rows: str, alone: None) -> None:
    plain = settings(rows, tmp_path / "plain")
    run(plain)
    run(settings(rows, tmp_path / "micro", micro_batch_rows=2))
    assert np.array(losses(tmp_path / "micro")) == pytest.approx(np.array(losses(plain.output)), rel=1e-4)


def test_train_loop_raises_diverged_for_nonfinite_loss(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", lr=1e30, grad_clip=0, warmup_share=0)
    with pytest.raises(Diverged, match=r"became (nan|inf) at step \d of 12"):
        run(config)
    assert not (tmp_path / "out" / "model").exists()


def test_train_loop_keeps_newest_checkpoints(tmp_path: Path, rows: str, alone: None) -> None:
    config = settings(rows, tmp_path / "out", checkpoint_every=3, keep=2)
    run(config)
    kept = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert kept == ["step-00000009", "step-00000012"]


def test_learning_rate_warms_up_holds_and_decays(tmp_path: Path, rows: str) -> None:
    config = settings(rows, tmp_path / "out", lr=1.0, warmup_share=0.1, decay_share=0.2)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[9:80] == [1.0] * 71
    assert all(a > b > 0 for a, b in pairwise(rates[79:]))
    assert rates[-1] < 0.05


def test_model_build_initializes_new_tokens_as_mean_embedding(
    tmp_path: Path, rows: str, write_rows: WriteRows, alone: None
) -> None:
    first = settings(rows, tmp_path / "first", max_steps=2)
    run(first)
    base = AutoModelForCausalLM.from_pretrained(f"{first.output}/model", dtype=torch.float32)
    old = AutoTokenizer.from_pretrained(f"{first.output}/model")
    extended = AutoTokenizer.from_pretrained(f"{first.output}/model")
    extended.add_special_tokens(
        {"additional_special_tokens": [f"<|{n}|>" for n in range(90)]}, replace_extra_special_tokens=False
    )
    config = settings(rows, tmp_path / "second", model={"init": first.output}).model
    grown = build(config, extended, context=32, device="cpu").network
    known = base.get_input_embeddings().weight[: len(old)]
    weight = grown.get_input_embeddings().weight
    assert len(extended) <= len(weight) == grown.config.vocab_size
    torch.testing.assert_close(weight[: len(old)], known)
    torch.testing.assert_close(weight[len(old) : len(extended)], known.mean(0).expand(90, -1))
    with pytest.raises(UserError, match="is 32 tokens, and the rows have 64"):
        build(config, extended, context=64, device="cpu")
    with pytest.raises(UserError, match="has another tokenizer"):
        build(settings(rows, tmp_path / "x", model={"init": first.output}).model, _other(old), context=32,
              device="cpu")  # fmt: skip


def _other(tokenizer: Any) -> Any:
    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {token: number + 1 for token, number in tokenizer.get_vocab().items()}

    return Other()
