"""Rows of the engine's batch that a replica's requests take, and the queue of searches that wait for them.

A search takes beam_size x num_candidates rows. With more rows than the engine's batch has, all searches would
be slower and hold their memory longer. A search therefore waits, in order of arrival, until the batch has
room for it beside the other searches. Requests that do not search take a row per answer and never wait here:
the engine lets them in between the rows of searches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from serve.errors import EndpointError

FULL = "the endpoint has too many requests waiting; try again later."


class RowQueue:
    """The rows of one engine: `capacity` of its batch.

    At most `max_waiting` searches wait. Of all requests, at most `max_waiting` more than there are rows are
    accepted.
    """

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self._capacity = self._free = capacity
        self._max_waiting, self._num_requests = max_waiting, 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self.rows = 0
        """rows of all requests that run or wait"""

    @asynccontextmanager
    async def take(self, rows: int, *, searches: bool) -> AsyncGenerator[None]:
        """Hold `rows` rows while the block runs; a request that searches waits until they are free.

        A request with more rows than the engine has (several prompts) waits for all of them. Raises
        EndpointError (503) if too many requests wait.
        """
        if self._num_requests >= self._capacity + self._max_waiting:
            raise EndpointError(503, FULL)
        needed = min(rows, self._capacity) if searches else 0
        self.rows += rows
        self._num_requests += 1
        try:
            await self._acquire(needed)
            try:
                yield
            finally:
                self._free += needed
                self._grant()
        finally:
            self.rows -= rows
            self._num_requests -= 1

    async def _acquire(self, rows: int) -> None:
        if not rows or (rows <= self._free and not self._waiting):
            self._free -= rows
            return
        if len(self._waiting) >= self._max_waiting:
            raise EndpointError(503, FULL)
        entry = (asyncio.get_running_loop().create_future(), rows)
        self._waiting.append(entry)
        try:
            await entry[0]
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:  # the rows were granted before the cancellation arrived
                self._free += rows
            self._grant()
            raise

    def _grant(self) -> None:
        """Let searches start, in order, as long as there are enough rows."""
        while self._waiting and self._waiting[0][1] <= self._free:
            turn, rows = self._waiting.popleft()
            self._free -= rows
            if turn.cancelled():  # its task has not run since; it gives the rows back
                continue
            turn.set_result(None)
