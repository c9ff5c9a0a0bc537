"""Let a logits processor add values to vLLM's log-probabilities (vLLM 0.29 and 0.32, V1 model runner).

A logits processor of vLLM changes logits but cannot return anything. P(tag) of each token has to reach the
client, so `Sampler.forward` is wrapped: before it runs, log P(tag) is computed from the unchanged logits, and
after it the value is written into the table of log-probabilities that the engine returns. For requests
without log-probabilities of their own, the table has one more column (vllm_token_values.py).
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import torch
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample.sampler import Sampler

from safety_ray.compat.versions import ENGINE_TESTED, check_versions


class LogprobsReporter(Protocol):
    """The interface of a batch that reports, as in safety_ray.decode.processor.TagRows."""

    @property
    def appends(self) -> bool:
        """Whether a request of the batch reports in an additional last column."""
        ...

    def measure(self, logits: torch.Tensor, /) -> torch.Tensor | None: ...

    def report(self, values: torch.Tensor, token_ids: torch.Tensor, log_probs: torch.Tensor, /) -> None: ...


def report_with_sampler(batch: LogprobsReporter, sampler: type[Sampler] = Sampler) -> None:
    """Wrap `sampler.forward` so that its log-probabilities contain what `batch` reports.

    Only the last call for a class has an effect: an engine process has one processor.
    """
    check_versions("vllm", tested=ENGINE_TESTED)
    original = getattr(sampler.forward, "__wrapped__", sampler.forward)

    @functools.wraps(original)
    def forward(self: Sampler, logits: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        values = batch.measure(logits)
        output = original(self, logits, *args, **kwargs)
        if values is not None:
            if batch.appends:
                output.logprobs_tensors = _with_column(output.logprobs_tensors, logits)
            if (table := output.logprobs_tensors) is not None:
                batch.report(values, table.logprob_token_ids, table.logprobs)
        return output

    sampler.forward = forward  # type: ignore[method-assign]


def _with_column(table: LogprobsTensors | None, logits_BV: torch.Tensor) -> LogprobsTensors:
    """Return `table`, or an empty one, with a last column of zeros."""
    ids_B1 = torch.zeros(len(logits_BV), 1, dtype=torch.int32, device=logits_BV.device)
    log_probs_B1 = torch.zeros(len(logits_BV), 1, dtype=torch.float32, device=logits_BV.device)
    if table is None:
        return LogprobsTensors(ids_B1, log_probs_B1, ids_B1[:, 0])
    return table._replace(
        logprob_token_ids=torch.cat([table.logprob_token_ids, ids_B1], dim=1),
        logprobs=torch.cat([table.logprobs, log_probs_B1], dim=1),
    )
