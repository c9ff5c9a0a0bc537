"""Add up a value of each generated token in vLLM's scheduler, and send the totals with the end (vLLM 0.29).

The worker appends the values of a step to its table of log-probabilities as one more column
(vllm_sampler.py). The totals of a request are sent as the `stop_reason` of its last output: the frontend
returns this field for each answer of a request, and reads it only if a stop string ends the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from safety_ray.compat.vllm_scheduler import TreeScheduler

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request, RequestStatus


class Totals(Protocol):
    """Totals of the values of a request's tokens."""

    def add_log(self, value: float, /) -> None: ...

    def in_stop_reason(self, stop_reason: int | str | None, /) -> str: ...


class TotalsScheduler(TreeScheduler):
    """A scheduler that adds up token values; a subclass says for which requests."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._totals: dict[str, Totals] = {}

    def open_totals(self, request: Request) -> Totals | None:
        """Return the totals of a request whose values the worker appends, or None for other requests."""
        raise NotImplementedError

    def add_request(self, request: Request) -> None:
        if (totals := self.open_totals(request)) is not None:
            self._totals[request.request_id] = totals
        super().add_request(request)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        batches = super().update_from_output(scheduler_output, model_runner_output)
        if not self._totals:
            return batches
        table, rows = model_runner_output.logprobs, model_runner_output.req_id_to_index
        values = table.logprobs[:, -1].tolist() if table is not None else []
        for batch in batches.values():
            for output in batch.outputs:
                totals = self._totals.get(output.request_id)
                if totals is None:
                    continue
                if output.new_token_ids:
                    totals.add_log(values[rows[output.request_id]])
                if output.finish_reason is not None:
                    del self._totals[output.request_id]
                    output.stop_reason = totals.in_stop_reason(output.stop_reason)
        return batches

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        ended = super().finish_requests(request_ids, finished_status)
        for request in ended:
            self._totals.pop(request.request_id, None)
        return ended
