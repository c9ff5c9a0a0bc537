"""Searches on a tree of tokens, compared with the same searches on rows, for every supported model type."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from safety_ray.core.errors import UserError
from safety_ray.decode.hf import drive, safe_beam_search
from safety_ray.decode.hf_rows import Rows
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.tree import MODEL_TYPES, Tree, fits

TAG, EOS, VOCABULARY = 3, 5, 30


def random_model(model_type: str, **settings: Any) -> Any:
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.4,
        **({} if model_type in ("gpt2", "gpt_neox") else {"num_key_value_heads": 2, "head_dim": 4}),
        eos_token_id=EOS,
        bos_token_id=None,
        pad_token_id=0,
        **({"sliding_window": None} if model_type == "mistral" else {}) | settings,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def searches(number: int) -> list[Search]:
    """Return searches of different sizes, of which most end at different steps."""
    options = {"tag_id": TAG, "max_new_tokens": 24, "eos_ids": {EOS, 6, 7}}
    return [
        Search(SearchSettings(**options, beam_size=1 + i % 4, num_candidates=2 + i % 3, stride=1 + i % 2))
        for i in range(number)
    ]


@torch.inference_mode()
def run(model: Any, prompts: list[list[int]], as_tree: bool, *, queries: int = 0) -> list[Search]:
    found, rows = searches(len(prompts)), Rows(model, prompts)
    assert fits(rows) or not as_tree
    drive(Tree(rows, queries=queries) if as_tree else rows, found)
    return found


@pytest.mark.parametrize("queries", [0, 16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))
def test_tree_search_matches_rows(model_type: str, attention: str, queries: int) -> None:
    """Prompts of different lengths, and searches that end at different steps."""
    model, rng = random_model(model_type, attn_implementation=attention), random.Random(2)
    prompts = [[rng.randrange(VOCABULARY) for _ in range(length)] for length in (1, 9, 4, 30, 2, 12)]
    found = run(model, prompts, True, queries=queries)
    for ours, theirs in zip(found, run(model, prompts, False), strict=True):
        assert [h.token_ids for h in ours.hypotheses()] == [h.token_ids for h in theirs.hypotheses()]
        for a, b in zip(ours.hypotheses(), theirs.hypotheses(), strict=True):
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
            assert a.p_tag == pytest.approx(b.p_tag, abs=1e-5)
    steps = {len(search.hypotheses()[0].token_ids) for search in found}
    assert len(steps) > 1, "the searches end at the same step, so that no search is removed"


@torch.inference_mode()
def test_tree_uses_columns_of_dropped_candidates_again() -> None:
    """After 40 tokens of 16 candidates each, the pool has columns for little more than the live beams."""
    rows = Rows(random_model("llama"), [[1] * 20])
    tree = Tree(rows)
    search = Search(SearchSettings(tag_id=TAG, max_new_tokens=40))
    drive(tree, [search])
    paths = {id(node) for beam in search.live for node in [beam, *beam.path()] if node.token_ids}
    last_candidates = 16 + 4 * 4  # of the last step, and their parents
    assert tree.layers[0].width <= 20 + len(paths) + last_candidates < 20 + 16 * 40 // 2
    assert tree.layers[0].keys.shape[2] < 20 + 16 * 40


def test_tree_does_not_fit_sliding_windows_or_other_models() -> None:
    with torch.inference_mode():
        windows = random_model("mistral", sliding_window=4)
        assert not fits(Rows(windows, [[1, 2, 3]]))
        with pytest.raises(UserError, match="cuda_graph=True: not possible for this model"):
            safe_beam_search(windows, [1], tag_id=TAG, eos_id=None, max_new_tokens=4, cuda_graph=True)
        model = random_model("llama")
        assert fits(Rows(model, [[1, 2, 3]]))
        model.config.model_type = "unknown"
        assert not fits(Rows(model, [[1, 2, 3]]))


@torch.inference_mode()
def test_tree_with_fixed_queries_calls_the_model_with_one_shape() -> None:
    """A CUDA graph is captured for each shape."""
    model = random_model("llama")
    rows, shapes = Rows(model, [[1] * 20, [2] * 20]), list[tuple[int, ...]]()
    model.register_forward_pre_hook(
        lambda module, args, inputs: shapes.append(tuple(inputs["attention_mask"].shape)), with_kwargs=True
    )
    ends_early = Search(SearchSettings(tag_id=TAG, max_new_tokens=5))
    drive(Tree(rows, queries=16), [ends_early, Search(SearchSettings(tag_id=TAG, max_new_tokens=40))])
    assert len(shapes) == 40
    assert len(set(shapes)) == 1
