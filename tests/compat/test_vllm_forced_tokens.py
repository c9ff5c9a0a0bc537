"""Batches with forced tokens, compared with vLLM's own sampler."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROWS, VOCABULARY = 5, 40


def metadata(biases: dict[int, dict[int, float]], **changes: Any) -> Any:
    """Return the metadata of a batch in which all rows are sampled greedily with these logit biases."""
    from vllm.v1.sample.logits_processor import (
        BatchUpdate,
        LogitBiasLogitsProcessor,
        LogitsProcessors,
    )
    from vllm.v1.sample.metadata import SamplingMetadata

    processor = LogitBiasLogitsProcessor(None, torch.device("cpu"), False)
    added = [(row, SimpleNamespace(logit_bias=biases.get(row)), [], []) for row in range(ROWS)]
    processor.update_state(BatchUpdate(ROWS, removed=[], added=added, moved=[]))  # type: ignore[arg-type]
    values: dict[str, Any] = {
        "temperature": None,
        "all_greedy": True,
        "all_random": False,
        "top_p": None,
        "top_k": None,
        "generators": {},
        "max_num_logprobs": 4,
        "no_penalties": True,
        "prompt_token_ids": None,
        "frequency_penalties": torch.zeros(ROWS),
        "presence_penalties": torch.zeros(ROWS),
        "repetition_penalties": torch.ones(ROWS),
        "output_token_ids": [[] for _ in range(ROWS)],
        "allowed_token_ids_mask": None,
        "bad_words_token_ids": {},
        "logitsprocs": LogitsProcessors([processor]),
    }
    return SamplingMetadata(**values | changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_skip_sampling_returns_what_vllm_returns(dtype: torch.dtype) -> None:
    from vllm.v1.sample.sampler import Sampler

    from safety_ray.compat.vllm_forced_tokens import FORCED, skip_sampling

    class Plain(Sampler):
        # Another test of this process may have wrapped vLLM's own (safety_ray/compat/vllm_sampler.py).
        forward = getattr(Sampler.forward, "__wrapped__", Sampler.forward)

    class Skipping(Plain):
        pass

    skip_sampling(Skipping)
    torch.manual_seed(0)
    logits = torch.randn(ROWS, VOCABULARY).to(dtype)
    biases = {row: {3 * row: FORCED} for row in range(ROWS)}
    ours, theirs = (sampler()(logits.clone(), metadata(biases)) for sampler in (Skipping, Plain))
    assert ours.sampled_token_ids.tolist() == [[3 * row] for row in range(ROWS)]
    for a, b in (
        (ours.sampled_token_ids, theirs.sampled_token_ids),
        (ours.logprobs_tensors.logprob_token_ids, theirs.logprobs_tensors.logprob_token_ids),
        (ours.logprobs_tensors.logprobs, theirs.logprobs_tensors.logprobs),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not ours.logprobs_tensors.selected_token_ranks.any()  # they are not computed


def test_forced_tokens_needs_a_forced_token_in_each_row() -> None:
    from safety_ray.compat.vllm_forced_tokens import FORCED, forced_tokens

    all_rows = {row: {row: FORCED} for row in range(ROWS)}
    assert forced_tokens(metadata(all_rows), ROWS) == list(range(ROWS))
    assert forced_tokens(metadata({**all_rows, 2: {2: 5.0}}), ROWS) is None
    assert forced_tokens(metadata({row: {row: FORCED} for row in range(ROWS - 1)}), ROWS) is None
    assert forced_tokens(metadata(all_rows, max_num_logprobs=None), ROWS) is None
    assert forced_tokens(metadata(all_rows, all_greedy=False), ROWS) is None
    assert forced_tokens(metadata(all_rows), ROWS + 1) is None
