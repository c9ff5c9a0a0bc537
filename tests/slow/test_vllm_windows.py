"""Searches in vLLM on models with sliding windows, compared with the transformers backend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from test_vllm_search import ENVIRONMENT
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM

from safety_ray.decode import hf
from safety_ray.decode.safebeam import Search, SearchSettings

pytestmark = pytest.mark.covers("safety_ray.decode.vllm_search", "safety_ray.compat.vllm_limits")
TAG, VOCABULARY, WINDOW = 0, 40, 16
PROMPTS = [[5], [7, 8, 9, 2, 3, 11, 30], [*range(2, 40), *range(2, 40)], [4, 4]]
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "sliding_window": WINDOW,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def mistral() -> Any:
    """Return a model of which all layers have a window."""
    return MistralForCausalLM(MistralConfig(**SHAPE, num_hidden_layers=2))


def gemma() -> Any:
    """Return a model of which some layers have a window."""
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, num_hidden_layers=3, layer_types=layers))


def searches() -> list[Search]:
    common: dict[str, Any] = {"tag_id": TAG, "max_new_tokens": 40}
    return [Search(SearchSettings(**common, beam_size=k, num_candidates=4)) for k in (4, 3, 4, 2)]


@pytest.mark.parametrize("make_model", [mistral, gemma])
def test_vllm_search_with_sliding_windows_matches_transformers(
    make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setitem(os.environ, name, value)
    from vllm import LLM

    from safety_ray.decode.vllm_scheduler import BLOCK_COPIES, SCHEDULER
    from safety_ray.decode.vllm_search import run_searches

    torch.manual_seed(3)
    model = make_model().eval()
    model.save_pretrained(tmp_path)
    llm = LLM(
        model=str(tmp_path),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=64,
        block_size=32,
        scheduler_cls=SCHEDULER,
        worker_extension_cls=BLOCK_COPIES,
    )
    found = run_searches(llm, PROMPTS, searches())
    expected = hf.run_searches(model, PROMPTS, searches())
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.token_ids for h in ours] == [h.token_ids for h in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-3)
            assert a.p_tag == pytest.approx(b.p_tag, abs=1e-4)
