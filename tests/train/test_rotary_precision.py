"""Frequencies of rotary embeddings stay in fp32 in every model that is cast to bf16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import run, settings
from transformers import AutoModelForCausalLM, AutoTokenizer, ModernBertConfig, ModernBertModel

from safety_ray.classifier import transformer
from safety_ray.classifier.encoder import Encoder, packaged_folder
from safety_ray.core.device import cast_parameters
from safety_ray.train.checkpoint import names
from safety_ray.train.model import load_tokenizer
from safety_ray.train.validate import load_network

WriteRows = Callable[..., str]


def frequencies(model: Any) -> dict[str, torch.Tensor]:
    """Return the frequencies by name; a model without any would make a test void."""
    found = {name: buffer for name, buffer in model.named_buffers() if "inv_freq" in name}
    assert found
    return found


def assert_exact(model: Any, expected: dict[str, torch.Tensor]) -> None:
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for name, buffer in frequencies(model).items():
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, expected[name])


def test_trained_model_in_bf16_keeps_rotary_frequencies(
    tmp_path: Path, write_rows: WriteRows, alone: None
) -> None:
    rows = write_rows(tmp_path / "rows")
    config = settings(rows, tmp_path / "out", max_steps=1, precision="bf16")
    run(config)
    exported = AutoModelForCausalLM.from_pretrained(f"{config.output}/model", dtype="auto")
    inverse = 1 / config.model.rope_theta ** (torch.arange(0, 16, 2) / 16)  # heads have a width of 16
    torch.testing.assert_close(frequencies(exported)["model.rotary_emb.inv_freq"], inverse)
    expected = {name: inverse.clone() for name in frequencies(exported)}
    folder = config.checkpoint_folder()
    validated = load_network(
        config.model, load_tokenizer(f"{rows}/tokenizer"), 32, f"{folder}/{names(folder)[-1]}", "cpu",
        torch.bfloat16,
    )  # fmt: skip
    for model in (exported, validated):
        assert_exact(model, expected)


def test_encoder_in_bf16_keeps_rotary_frequencies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "fast_bf16", lambda device: True)
    config = ModernBertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        pad_token_id=0, bos_token_id=101, eos_token_id=102, cls_token_id=101, sep_token_id=102,
    )  # fmt: skip
    plain = ModernBertModel(config)
    plain.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(packaged_folder()).save_pretrained(tmp_path)
    expected = frequencies(plain)
    encoder = Encoder(str(tmp_path), 64, "cpu")
    assert_exact(encoder.model, expected)
    vectors = encoder.embed(encoder.chunk_ids(["A quiet soup recipe."])[0])
    assert torch.isfinite(vectors).all()

    cast_parameters(plain, torch.bfloat16)
    assert_exact(plain, expected)
