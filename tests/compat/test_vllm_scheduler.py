"""Requests of one search step start together, whatever scheduler class the groups are mixed into."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def test_group_scheduler_holds_requests_until_group_complete() -> None:
    from vllm.v1.request import RequestStatus

    from safety_ray.compat.vllm_scheduler import GROUP_ARG, RequestGroups

    started: list[str] = []
    finished: list[Any] = []

    class Scheduler:
        def add_request(self, request: Any) -> None:
            started.append(request.request_id)

        def finish_requests(self, ids: Any, status: Any) -> list[Any]:
            finished.append(ids)
            return []

    class GroupedScheduler(RequestGroups, Scheduler):
        pass

    def request(name: str, group: list[Any] | None = None) -> Any:
        extra = {GROUP_ARG: group} if group else None
        return SimpleNamespace(
            request_id=name, sampling_params=SimpleNamespace(extra_args=extra), status=RequestStatus.WAITING
        )

    scheduler: Any = GroupedScheduler()
    scheduler.add_request(request("a1", ["a", 3]))
    scheduler.add_request(request("b1", ["b", 2]))
    scheduler.add_request(request("alone"))
    scheduler.add_request(request("a2", ["a", 3]))
    assert started == ["alone"]
    scheduler.add_request(request("a3", ["a", 3]))
    assert started == ["alone", "a1", "a2", "a3"]
    scheduler.add_request(request("c1", ["c", 2]))
    scheduler.finish_requests("b1", RequestStatus.FINISHED_ABORTED)
    scheduler.add_request(request("c2", ["c", 2]))
    assert started[4:] == ["c1", "c2"]
    aborted = request("d1", ["d", 2])
    scheduler.add_request(aborted)
    scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)
    assert aborted.status == RequestStatus.FINISHED_ABORTED
    assert finished == [{"b1"}, None]
    assert not scheduler._waiting
