"""Start all requests of one search step in the same engine step (a scheduler class for vLLM 0.29).

    LLM(..., scheduler_cls=SCHEDULER)

A step of Safe Beam Search sends one request per candidate. The requests arrive one after another, and the
engine would start the first before the others arrive: two or more model steps instead of one. Requests that
name a group, `SamplingParams(extra_args={GROUP_ARG: [name, size]})`, wait here until the whole group has
arrived. Other requests are not affected. A malformed group is ignored, and its request starts alone: an
exception in the scheduler would end the engine with all its requests.

vLLM accepts a scheduler class but declares its interface private: this class overrides `add_request` and
`finish_requests`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from safety_ray.compat.versions import check_versions

if TYPE_CHECKING:
    from vllm.v1.request import Request, RequestStatus

SCHEDULER = "safety_ray.compat.vllm_scheduler.GroupScheduler"
"""Value of vLLM's engine argument `scheduler_cls`."""
GROUP_ARG = "search_group"
"""Name of the extra sampling argument that holds a request's group: [name, number of requests]."""


def is_group(group: Any) -> bool:
    """Return whether `group` is [name, number of requests]."""
    if not isinstance(group, (list, tuple)) or len(group) != 2:
        return False
    name, size = group
    return isinstance(name, str) and isinstance(size, int) and not isinstance(size, bool) and size >= 1


class RequestGroups:
    """Mixin that starts the requests of a group together; list it before a scheduler class in the bases."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[tuple[str, int], list[Request]] = {}  # by name and number of requests

    def add_request(self, request: Request) -> None:
        params = request.sampling_params
        group = (params.extra_args or {}).get(GROUP_ARG) if params is not None else None
        if group is None or not is_group(group):
            super().add_request(request)  # type: ignore[misc]
            return
        name, size = group
        members = self._waiting.setdefault((name, size), [])
        members.append(request)
        if len(members) == size:
            for member in self._waiting.pop((name, size)):
                super().add_request(member)  # type: ignore[misc]

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        """Also drop requests that wait for their group; a group that loses a request never starts."""
        if isinstance(request_ids, str):
            request_ids = [request_ids]
        ids = None if request_ids is None else set(request_ids)
        for group, members in list(self._waiting.items()):
            remaining = [request for request in members if ids is not None and request.request_id not in ids]
            for request in members:
                if request not in remaining:
                    request.status = finished_status
            if remaining:
                self._waiting[group] = remaining
            else:
                del self._waiting[group]
        finished: list[Request] = super().finish_requests(ids, finished_status)  # type: ignore[misc]
        return finished


class GroupScheduler(RequestGroups, AsyncScheduler):
    """vLLM's asynchronous scheduler with request groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_versions("vllm")
        super().__init__(*args, **kwargs)
