"""vLLM's two model runners, V1 and V2, and how a logits processor belongs to either (vLLM 0.29 and 0.32).

An engine chooses its runner: V2 if there is Triton and V2 supports all settings, else V1. The environment
variable VLLM_USE_V2_MODEL_RUNNER forces one. V2 of vLLM 0.29 takes no custom logits processors, so an engine
with one falls back to V1. V2 of vLLM 0.32 has an interface of its own for them, which receives a step's
logits after biases and penalties. P(tag) is the model's own only before them, hence the wrapped sampler.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch

from safety_ray.compat.versions import ENGINE_TESTED, check_versions, installed_version

__all__ = ["SlotLogitsProcessor", "StepReader", "check_slots", "describe_runner", "read_steps"]

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotLogitsProcessor
except ImportError:  # vLLM 0.29

    class SlotLogitsProcessor:  # type: ignore[no-redef]
        """Stands for the interface of V2, which this version of vLLM does not have."""


class StepReader(Protocol):
    """The interface of a processor that reads a step of the V2 runner, before and after it samples."""

    def before_sampling(self, logits: torch.Tensor, batch: Any, /) -> None: ...

    def after_sampling(self, token_ids: torch.Tensor, log_probs: torch.Tensor, batch: Any, /) -> None: ...


def describe_runner(vllm_config: Any) -> str:
    """Return the engine's version and model runner, and why it is not V2 if this version cannot have it."""
    engine = f"vLLM {installed_version('vllm')}"
    if vllm_config.use_v2_model_runner:
        return f"{engine} with model runner V2"
    has_interface = SlotLogitsProcessor.__module__ != __name__
    reason = "" if has_interface else " (its V2 takes no logits processors)"
    return f"{engine} with model runner V1{reason}"


def check_slots(vllm_config: Any) -> None:
    """Raise ValueError if the safety modes cannot run on the V2 runner with these settings."""
    check_versions("vllm", tested=ENGINE_TESTED)
    if vllm_config.speculative_config is not None:
        raise ValueError("safety modes do not support speculative decoding; leave out speculative_config.")


def read_steps(reader: StepReader) -> None:
    """Wrap the V2 runner's `Sampler.__call__` so that `reader` receives each step's unchanged logits.

    Only the last call has an effect: an engine process has one processor.
    """
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    original = getattr(Sampler.__call__, "__wrapped__", Sampler.__call__)

    @functools.wraps(original)
    def call(self: Any, logits: torch.Tensor, input_batch: Any) -> Any:
        reader.before_sampling(logits, input_batch)
        output = original(self, logits, input_batch)
        if output.logprobs_tensors is not None:
            table = output.logprobs_tensors
            reader.after_sampling(table.logprob_token_ids, table.logprobs, input_batch)
        return output

    Sampler.__call__ = call
