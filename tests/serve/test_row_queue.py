"""Searches wait for rows of the engine's batch; the autoscaling policy counts the same rows."""

from __future__ import annotations

import asyncio
import pickle
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingPolicy

from serve.autoscaling import ROWS, replicas_for_rows
from serve.errors import EndpointError
from serve.row_queue import RowQueue


class Requests:
    """Requests that hold rows until they are ended; `running` are those that have their rows, in order."""

    def __init__(self, capacity: int, max_waiting: int = 9) -> None:
        self.queue, self.running = RowQueue(capacity, max_waiting), list[str]()
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, rows: int, searches: bool = True) -> None:
        async def hold() -> None:
            async with self.queue.take(rows, searches=searches):
                self.running.append(name)
                await self._ends[name].wait()
            self.running.remove(name)

        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(hold())
        await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await asyncio.gather(*(self._tasks[name] for name in names))
        await asyncio.sleep(0)

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await asyncio.sleep(0)


def test_row_queue_starts_searches_in_order() -> None:
    async def run() -> None:
        requests = Requests(32)
        for name, rows in (("a", 16), ("b", 16), ("c", 32), ("d", 4)):
            await requests.start(name, rows)
        assert requests.running == ["a", "b"]
        assert requests.queue.rows == 68
        await requests.end("a")
        assert requests.running == ["b"], "d is small enough, but came after c"
        await requests.end("b")
        assert requests.running == ["c"]
        await requests.end("c")
        assert requests.running == ["d"]
        await requests.end("d")
        assert requests.queue.rows == 0

    asyncio.run(run())


def test_row_queue_lets_other_requests_pass() -> None:
    async def run() -> None:
        requests = Requests(16)
        await requests.start("search", 16)
        await requests.start("next search", 16)
        await requests.start("plain", 5, searches=False)
        assert requests.running == ["search", "plain"]
        await requests.end("search", "plain")
        assert requests.running == ["next search"]

    asyncio.run(run())


def test_row_queue_refuses_search_beyond_limit() -> None:
    async def run() -> None:
        requests = Requests(16, max_waiting=1)
        await requests.start("running", 16)
        await requests.start("waiting", 16)
        with pytest.raises(EndpointError, match="too many requests waiting") as refused:
            async with requests.queue.take(1, searches=True):
                pass
        assert refused.value.status == 503
        assert requests.queue.rows == 32
        await requests.end("running")
        assert requests.running == ["waiting"]

    asyncio.run(run())


def test_row_queue_refuses_other_requests_beyond_limit() -> None:
    async def run() -> None:
        requests = Requests(4, max_waiting=2)
        for name in "abcdef":
            await requests.start(name, 1, searches=False)
        assert requests.running == list("abcdef")
        with pytest.raises(EndpointError, match="too many requests waiting"):
            async with requests.queue.take(1, searches=False):
                pass
        await requests.end("a")
        async with requests.queue.take(1, searches=False):
            pass
        await requests.end(*"bcdef")

    asyncio.run(run())


def test_row_queue_forgets_cancelled_search() -> None:
    async def run() -> None:
        requests = Requests(16)
        for name in ("a", "b", "c", "d"):
            await requests.start(name, 16)
        await requests.cancel("b")
        await requests.end("a")
        assert requests.running == ["c"]
        await requests.cancel("c")
        assert "d" in requests.running
        await requests.end("d")
        assert requests.queue.rows == 0
        await requests.start("all", 16)
        assert requests.running[-1] == "all"

    asyncio.run(run())


def test_row_queue_survives_cancellation_with_grant() -> None:
    """The rows are granted, and the task is cancelled before it runs again."""

    async def run() -> None:
        queue = RowQueue(16, 9)
        entered = asyncio.Event()

        async def hold() -> None:
            async with queue.take(16, searches=True):
                entered.set()

        async with queue.take(16, searches=True):
            waiting = asyncio.create_task(hold())
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not entered.is_set()
        async with asyncio.timeout(60), queue.take(16, searches=True):
            pass
        assert queue.rows == 0

    asyncio.run(run())


def test_row_queue_runs_request_larger_than_engine() -> None:
    async def run() -> None:
        requests = Requests(16)
        await requests.start("several prompts", 64)
        assert requests.running == ["several prompts"]
        await requests.start("next", 1)
        assert requests.running == ["several prompts"]
        await requests.end("several prompts")
        assert requests.running == ["next"]

    asyncio.run(run())


def context(rows: list[int], requests: float, queued: float, target: float) -> Any:
    by_replica = {f"replica {i}": value for i, value in enumerate(rows)}
    return SimpleNamespace(
        aggregated_metrics={ROWS: by_replica} if rows else None,
        total_num_requests=requests,
        total_queued_requests=queued,
        config=SimpleNamespace(target_ongoing_requests=target),
    )


@pytest.mark.parametrize(
    ("rows", "requests", "queued", "replicas"),
    [
        ([16, 32], 3, 0, 1.5),  # three searches
        ([16, 32], 6, 3, 3.0),  # and three more that no replica has accepted
        ([], 8, 0, 0.25),  # replicas that have not reported yet: one row per request
        ([0], 0, 4, 0.125),
        ([0], 0, 0, 0.0),
    ],
)
def test_replicas_for_rows_counts_rows(rows: list[int], requests: int, queued: int, replicas: float) -> None:
    assert replicas_for_rows(context(rows, requests, queued, 32))[0] == replicas


def test_replicas_for_rows_runs_without_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Ray Serve's controller on a cluster."""
    policy = AutoscalingPolicy(policy_function="serve.autoscaling:replicas_for_rows")
    pickled = policy.get_serialized_policy_def()
    monkeypatch.delitem(sys.modules, "serve.autoscaling")
    monkeypatch.setitem(sys.modules, "serve", None)
    assert pickle.loads(pickled)(context([16], 1, 0, 16))[0] == 1.0
