"""The class vLLM loads to keep the harmfulness tag out of sampled text (V1 processor interface).

    LLM(..., logits_processors=[PROCESSOR], additional_config=engine_config(tag_id))

A request chooses by extra arguments: `SamplingParams(extra_args={"safety_mode": "stop",
"safety_threshold": 0.05})`. The logic stands in `processor.py`; only names of vLLM stand here.

With `"safety_report": True` and `logprobs=n`, n at least 1, the last of the n log-probabilities of
each token is the tag's. vLLM has no way for a processor to say anything, so its sampler is wrapped.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.sample.sampler import Sampler

from safety_ray.core.errors import UserError
from safety_ray.decode.processor import REPORT_ARG, Safety, TagRows, check_sampling, ending, requested

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

PROCESSOR = "safety_ray.decode.vllm_processor:TagProcessor"
CONFIG_KEY = "safety"


def engine_config(tag_id: int, default: Safety | None = None, **more: Any) -> dict[str, Any]:
    """vLLM's `additional_config` for this processor; `default` holds for requests that say nothing."""
    return {CONFIG_KEY: {"tag_id": tag_id, "default": asdict(default or Safety()), **more}}


class TagProcessor(LogitsProcessor):
    """Masks the tag, or ends a text at it, in the rows of vLLM's persistent batch."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises VLLMValidationError (HTTP 400) for an unknown mode or a threshold out of range."""
        try:
            check_sampling(requested(sampling_params.extra_args, Safety()), None, sampling_params)
        except UserError as error:
            raise VLLMValidationError(str(error)) from error

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        config = vllm_config.additional_config
        settings = config.get(CONFIG_KEY) if isinstance(config, dict) else None
        if not settings:
            raise ValueError(f"{PROCESSOR} needs the engine argument additional_config=engine_config(tag_id)")
        self.default = Safety(**settings["default"])
        self.batch = TagRows(int(settings["tag_id"]), device)
        report_from(Sampler, self.batch)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch; vLLM's order of changes is removed, added, moved."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.batch.remove(row)
        for row, params, _, output in batch_update.added:
            extra = params.extra_args or {}
            safety = requested(extra, self.default)
            end = ending(self.batch.tag, params.stop_token_ids, params.eos_token_id)
            if safety.ends_texts and end is None:  # a model without an end of text
                safety = Safety("mask")
            column = params.logprobs if extra.get(REPORT_ARG) else None
            self.batch.add(row, safety, end, output=output, column=column or None)
        for source, target, direction in batch_update.moved:
            self.batch.move(source, target, direction == MoveDirectionality.SWAP)
        self.batch.settle()

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return self.batch.apply(logits)


def report_from(sampler: type[Sampler], batch: TagRows) -> None:
    """Make `sampler`'s tables of log-probabilities hold the P(tag) of the rows of `batch` that report it."""
    original = getattr(sampler.forward, "__wrapped__", sampler.forward)

    @functools.wraps(original)
    def forward(self: Sampler, logits: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        log_p = batch.measure(logits)
        output = original(self, logits, *args, **kwargs)
        if log_p is not None and output.logprobs_tensors is not None:
            table = output.logprobs_tensors
            batch.report(log_p, table.logprob_token_ids, table.logprobs)
        return output

    sampler.forward = forward  # type: ignore[method-assign]
