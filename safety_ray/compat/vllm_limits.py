"""Limits of the engines and models that can run trees of continuations, see vllm_scheduler.py (vLLM 0.29).

A tree only needs requests that each return the log-probabilities after their prompt, which every engine does
for models with full attention or sliding windows. The other cases are refused, because no test compares them
with another implementation:

- KV connectors: they load and save the blocks of finished requests, which the rows of a tree hold themselves.
- Speculative decoding: drafts are made for a row although it ends with its first token. vLLM itself does not
  allow custom logits processors with it.
- Other values of `logprobs_mode`: the bias that chooses the tokens of a row would be in P(tag).
- Data parallelism: engines of one model wait for each other's steps, and rows exist in one engine only.
- Models with recurrent states (Mamba, linear attention) or with an encoder: a state is not a set of blocks of
  tokens, so each row would compute its whole text.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec, UniformTypeKVCacheSpecs


def reason_against_trees(scheduler: Any) -> str:
    """Return why the engine of a vLLM scheduler cannot run trees; empty if it can."""
    if scheduler.connector is not None or scheduler.ec_connector is not None:
        return "searches do not run with a KV or encoder cache connector; leave out kv_transfer_config."
    if scheduler.vllm_config.speculative_config is not None:
        return "searches do not run with speculative decoding; leave out speculative_config."
    if scheduler.parallel_config.data_parallel_size > 1:
        return "searches do not run with data parallelism; set data_parallel_size=1 and start more engines."
    if scheduler.vllm_config.model_config.logprobs_mode != "raw_logprobs":
        return "searches need the model's own log-probabilities; leave out logprobs_mode."
    if scheduler.is_encoder_decoder:
        return "searches do not run on a model with an encoder; use a decoder-only model."
    if not all(isinstance(spec, (FullAttentionSpec, SlidingWindowSpec)) for spec in _layers(scheduler)):
        return (
            "searches run on models with full attention or sliding windows only; this one has other layers."
        )
    return ""


def reason_against_holding(scheduler: Any) -> str:
    """Return why rows cannot hand their blocks to their children; empty if they can."""
    groups, layers = scheduler.kv_cache_config.kv_cache_groups, _layers(scheduler)
    if not scheduler.cache_config.enable_prefix_caching:
        return "prefix caching is off"
    if len(groups) != 1 or any(type(spec) is not FullAttentionSpec for spec in layers):
        return "the model has other layers than full attention"
    if any(spec.sliding_window is not None for spec in layers):
        return "the model has a sliding window"
    return ""


def _layers(scheduler: Any) -> list[Any]:
    """Return the kinds of the model's layers."""
    layers: list[Any] = []
    for group in scheduler.kv_cache_config.kv_cache_groups:
        spec = group.kv_cache_spec
        layers += spec.kv_cache_specs.values() if isinstance(spec, UniformTypeKVCacheSpecs) else [spec]
    return layers
