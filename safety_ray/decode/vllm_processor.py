"""The logits processor class that vLLM loads (V1 interface) to keep the harmfulness tag out of sampled text.

    LLM(..., logits_processors=[PROCESSOR], additional_config=engine_config(tag_id))

A request chooses its mode by extra arguments: `SamplingParams(extra_args={"safety_mode": "stop",
"safety_threshold": 0.05})`. The logic is in processor.py; this file translates between it and vLLM.

With `"safety_report": True` and `logprobs=n`, n at least 1, the last of the n log-probabilities of each token
is the tag's (safety_ray/compat/vllm_sampler.py). With `"safety_report": True` alone, and the scheduler class
of vllm_scheduler.py, `take_totals` finds the first, highest and mean P(tag) of a text in its `stop_reason`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from safety_ray.compat.vllm_sampler import report_with_sampler
from safety_ray.core.errors import UserError
from safety_ray.decode.processor import (
    REPORT_ARG,
    TagPolicy,
    TagRows,
    check_sampling,
    end_token,
    parse_policy,
    report_column,
)
from safety_ray.decode.vllm_scheduler import SEARCH_ARG, make_search

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

PROCESSOR = "safety_ray.decode.vllm_processor:TagProcessor"
CONFIG_KEY = "safety"
"""Key of this package's settings in vLLM's `additional_config`."""


def engine_config(tag_id: int, default: TagPolicy | None = None, **settings: Any) -> dict[str, Any]:
    """Return vLLM's `additional_config` for this processor.

    `default` applies to requests without safety arguments. `settings` are kept beside it for other readers.
    """
    return {CONFIG_KEY: {"tag_id": tag_id, "default": asdict(default or TagPolicy()), **settings}}


class TagProcessor(LogitsProcessor):
    """Mask the tag, or end a text at it, in the rows of vLLM's persistent batch."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise VLLMValidationError (HTTP 400) for extra arguments that the engine cannot process.

        vLLM calls this function before a request is sent to the engine's own processes.
        """
        extra = sampling_params.extra_args or {}
        try:
            check_sampling(parse_policy(extra, TagPolicy()), None, sampling_params)
            if SEARCH_ARG in extra:
                make_search(extra[SEARCH_ARG])
            if extra.get(REPORT_ARG) and sampling_params.logprob_token_ids:
                raise UserError(f"{REPORT_ARG} needs logprobs; leave out logprob_token_ids.")
            if extra.get(REPORT_ARG) and sampling_params.stop and sampling_params.logprobs is None:
                # The frontend ends such a text, so the engine has no last output with the totals.
                raise UserError(f"{REPORT_ARG} with stop strings needs logprobs=1.")
        except UserError as error:
            raise VLLMValidationError(str(error)) from error

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        config = vllm_config.additional_config
        settings = config.get(CONFIG_KEY) if isinstance(config, dict) else None
        if not settings:
            raise ValueError(f"{PROCESSOR} needs the engine argument additional_config=engine_config(tag_id)")
        self.default = TagPolicy(**settings["default"])
        self.batch = TagRows(int(settings["tag_id"]), device)
        report_with_sampler(self.batch)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the changes of the batch in vLLM's order: removed, added, moved."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.batch.remove(row)
        for row, params, _, output in batch_update.added:
            extra = params.extra_args or {}
            try:
                policy = parse_policy(extra, self.default)
            except UserError:  # an exception here would end the engine with all its requests
                policy = TagPolicy("mask")
            end = end_token(self.batch.tag, params.stop_token_ids, params.eos_token_id)
            if policy.ends_texts and end is None:  # the model has no end of text
                policy = TagPolicy("mask")
            column = report_column(extra, params.logprobs)
            self.batch.add(row, policy, end, output=output, column=column)
        for source, target, direction in batch_update.moved:
            self.batch.move(source, target, direction == MoveDirectionality.SWAP)
        self.batch.flush()

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return self.batch.apply(logits)
