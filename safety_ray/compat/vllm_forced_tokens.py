"""Leave out the sampling of rows whose token is known beforehand (vLLM 0.29), for vllm_cpu_worker.py.

A row of a search forces a token by its logit bias, so that vLLM reports this token's log-probability. vLLM
then still copies the logits, looks for the maximum and counts the tokens that are likelier, which takes as
long as the log-probabilities themselves. There is no setting for the sampler's steps.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.logits_processor import LogitBiasLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

FORCED = 1e9
"""Logit bias of a forced token. It costs less than `allowed_token_ids`, a mask of the vocabulary per row."""


def forced_tokens(metadata: SamplingMetadata, num_rows: int) -> list[int] | None:
    """Return the forced token of each row; None if a row has none or other parameters have an effect."""
    if metadata.max_num_logprobs in (None, -1) or metadata.logprob_token_ids or not metadata.all_greedy:
        return None
    processors = metadata.logitsprocs.non_argmax_invariant
    biases: dict[int, dict[int, float]] = next(
        (p.biases for p in processors if isinstance(p, LogitBiasLogitsProcessor)), {}
    )
    if len(biases) != num_rows or any(FORCED not in bias.values() for bias in biases.values()):
        return None
    return [max(biases[row], key=lambda token: biases[row][token]) for row in range(num_rows)]


def forced_output(logits: torch.Tensor, tokens: list[int], num_logprobs: int) -> SamplerOutput:
    """Return what vLLM's sampler returns for rows that sample `tokens`, without the ranks of these."""
    log_probs = Sampler.compute_logprobs(logits)
    sampled = torch.tensor(tokens, device=logits.device)[:, None]
    best, ids = log_probs.topk(num_logprobs, dim=-1)
    table = LogprobsTensors(
        torch.cat((sampled, ids), dim=1).to(torch.int32),
        torch.cat((log_probs.gather(1, sampled), best), dim=1),
        torch.zeros(len(tokens), dtype=torch.int64, device=logits.device),
    )
    return SamplerOutput(sampled.to(torch.int32), table)


def skip_sampling(sampler: type[Sampler] = Sampler) -> None:
    """Replace `sampler.forward` so that it leaves out the sampling of rows with forced tokens."""
    original = sampler.forward

    # Without functools.wraps, as vllm_sampler.py wraps this function too and looks for vLLM's own in it.
    def forward(
        self: Sampler, logits: torch.Tensor, sampling_metadata: SamplingMetadata, *args: Any, **kwargs: Any
    ) -> Any:
        if self.logprobs_mode == "raw_logprobs" and not (args or kwargs):
            tokens = forced_tokens(sampling_metadata, len(logits))
            if tokens is not None:
                assert sampling_metadata.max_num_logprobs is not None
                return forced_output(logits, tokens, sampling_metadata.max_num_logprobs)
        return original(self, logits, sampling_metadata, *args, **kwargs)

    sampler.forward = forward  # type: ignore[method-assign]
