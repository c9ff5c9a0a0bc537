"""Requests of one search step start together, whatever scheduler class the groups are mixed into."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

ODD_GROUPS: list[Any] = [
    5,
    0,
    True,
    2.5,
    "a",
    "ab",
    [],
    ["a"],
    ["a", 2, 3],
    ["a", "2"],
    ["a", 0],
    ["a", -1],
    ["a", True],
    ["a", 2.0],
    ["a", None],
    [["a"], 2],
    [1, 2],
    [None, 2],
    {"a": 1, "b": 2},
]


@pytest.mark.parametrize("group", ODD_GROUPS)
def test_group_scheduler_starts_request_with_odd_group(group: Any) -> None:
    from safety_ray.compat.vllm_scheduler import GROUP_ARG, RequestGroups, is_group

    started: list[str] = []

    class Scheduler:
        def add_request(self, request: Any) -> None:
            started.append(request.request_id)

    class GroupedScheduler(RequestGroups, Scheduler):
        pass

    scheduler: Any = GroupedScheduler()
    params = SimpleNamespace(extra_args={GROUP_ARG: group})
    scheduler.add_request(SimpleNamespace(request_id="odd", sampling_params=params))
    assert started == ["odd"]
    assert not is_group(group)
    assert is_group(["a", 2])


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
    for name, size in (("e1", 2), ("e2", 3), ("e3", 2)):  # groups of one name and two sizes
        scheduler.add_request(request(name, ["e", size]))
    assert started[4:] == ["e1", "e3"]
    scheduler.finish_requests("e2", RequestStatus.FINISHED_ABORTED)
    finished.clear()
    del started[4:]
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
