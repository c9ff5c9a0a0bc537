"""Start all requests of one search step in the same engine step (a scheduler class for vLLM).

    LLM(..., scheduler_cls=SCHEDULER)

A step of Safe Beam Search sends one request per candidate. The requests arrive one after another, and
the engine would start the first before the others arrive: two or more model steps instead of one.
Requests that name a group, `SamplingParams(extra_args={GROUP_ARG: [name, size]})`, wait here until the
whole group has arrived. Other requests are not affected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler

if TYPE_CHECKING:
    from vllm.v1.request import Request, RequestStatus

SCHEDULER = "safety_ray.compat.vllm_scheduler.GroupScheduler"
GROUP_ARG = "search_group"


class Groups:
    """Mixin that starts the requests of a group together; list it before a scheduler class in the bases."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gathering: dict[str, list[Request]] = {}

    def add_request(self, request: Request) -> None:
        params = request.sampling_params
        group = (params.extra_args or {}).get(GROUP_ARG) if params is not None else None
        if group is None:
            super().add_request(request)  # type: ignore[misc]
            return
        name, size = group
        come = self._gathering.setdefault(name, [])
        come.append(request)
        if len(come) == size:
            for each in self._gathering.pop(name):
                super().add_request(each)  # type: ignore[misc]

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        """Also drop requests that still wait for their group; a group that loses a request never starts."""
        if isinstance(request_ids, str):
            request_ids = [request_ids]
        ids = None if request_ids is None else set(request_ids)
        for name, come in list(self._gathering.items()):
            left = [each for each in come if ids is not None and each.request_id not in ids]
            for each in come:
                if each not in left:
                    each.status = finished_status
            if left:
                self._gathering[name] = left
            else:
                del self._gathering[name]
        found: list[Request] = super().finish_requests(ids, finished_status)  # type: ignore[misc]
        return found


class GroupScheduler(Groups, AsyncScheduler):
    """vLLM's asynchronous scheduler with request groups."""
