"""The logits processor class that vLLM loads to keep the harmfulness tag out of sampled text.

    LLM(..., logits_processors=[PROCESSOR], additional_config=engine_config(tag_id))

A request chooses its mode by extra arguments: `SamplingParams(extra_args={"safety_mode": "stop",
"safety_threshold": 0.05})`. The logic is in processor.py and slots.py; this file translates between it and
vLLM. The class has the interfaces of both model runners (safety_ray/compat/vllm_runners.py): V1 keeps each
request in a row and reports changes (TagRows), V2 keeps it in a slot and orders each step again (TagSlots).

With `"safety_report": True` and `logprobs=n`, n at least 1, the last of the n log-probabilities of each token
is the tag's (safety_ray/compat/vllm_sampler.py). With `"safety_report": True` alone, and the scheduler class
of vllm_scheduler.py, `take_totals` finds the first, highest and mean P(tag) of a text in its `stop_reason`.
The totals need V1: on V2, reports are per token only.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from safety_ray.compat.vllm_runners import SlotLogitsProcessor, check_slots, read_steps
from safety_ray.compat.vllm_sampler import report_with_sampler
from safety_ray.core.errors import UserError
from safety_ray.decode.processor import (
    LAST,
    REPORT_ARG,
    TagPolicy,
    TagRows,
    check_sampling,
    parse_policy,
    running_policy,
)
from safety_ray.decode.slots import TagSlots
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


class TagProcessor(LogitsProcessor, SlotLogitsProcessor):
    """Mask the tag, or end a text at it, in the batches of either model runner."""

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

    def __init__(
        self, vllm_config: VllmConfig, runner: torch.device | Any, is_pin_memory: bool | None = None
    ) -> None:
        """Create the processor; `runner` is a device in V1, and the state of its requests in V2."""
        config = vllm_config.additional_config
        settings = config.get(CONFIG_KEY) if isinstance(config, dict) else None
        if not settings:
            raise ValueError(f"{PROCESSOR} needs the engine argument additional_config=engine_config(tag_id)")
        self.default, self.tag = TagPolicy(**settings["default"]), int(settings["tag_id"])
        if isinstance(runner, torch.device):
            self.batch = TagRows(self.tag, runner)
            report_with_sampler(self.batch)
        else:
            check_slots(vllm_config)
            self.slots = TagSlots(self.tag, runner.max_num_reqs, runner.device)
            self._requests = runner
            self._log_p_tags: torch.Tensor | None = None
            read_steps(self)

    def is_argmax_invariant(self) -> bool:  # V1
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:  # V1
        """Follow the changes of the batch in vLLM's order: removed, added, moved."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.batch.remove(row)
        for row, params, _, output in batch_update.added:
            policy, end, column = running_policy(params, self.default, self.tag)
            self.batch.add(row, policy, end, output=output, column=column)
        for source, target, direction in batch_update.moved:
            self.batch.move(source, target, direction == MoveDirectionality.SWAP)
        self.batch.flush()

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:  # V2
        policy, end, column = running_policy(sampling_params, self.default, self.tag)
        return self.slots.add(req_idx, policy, end, column=None if column == LAST else column)

    def apply_staged_writes(self) -> None:  # V2
        self.slots.flush()

    def before_sampling(self, logits: torch.Tensor, batch: Any) -> None:  # V2
        self._log_p_tags = self.slots.measure(logits, batch.idx_mapping_np)

    def after_sampling(self, token_ids: torch.Tensor, log_probs: torch.Tensor, batch: Any) -> None:  # V2
        if self._log_p_tags is not None:
            self.slots.report(self._log_p_tags, batch.expanded_idx_mapping, token_ids, log_probs)

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Apply the modes of a step's rows, which only V2 describes, as `ctx`."""
        if ctx is None:
            return self.batch.apply(logits)
        slots = ctx.expanded_idx_mapping
        is_first = ctx.pos + 1 == self._requests.prompt_len.gpu[slots]
        log_p_tags = self._log_p_tags
        if log_p_tags is None:  # no row needs it, or a model's own sampler has not called before_sampling
            log_p_tags = self.slots.measure(logits, ctx.idx_mapping_np)
        return self.slots.apply(logits, slots, is_first, log_p_tags)
