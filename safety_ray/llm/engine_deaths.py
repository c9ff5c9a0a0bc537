"""Reject requests that end their engine, which would otherwise end every engine that takes its place.

As in core/worker_deaths.py, an actor on the driver's node counts the requests that started and did not end.
A request that was open when two engines died is repeated alone, and rejected if two more engines die then.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from safety_ray.core.worker_deaths import BATCH_TRIES, ROW_TRIES

Generate = Callable[..., AsyncIterator[Any]]
ALONE = "alone "
"""begins the second key of a request that is repeated alone"""


class Turns:
    """Let requests run together, or one alone. Those that wait to run alone go first."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._open = self._waiting = 0
        self._alone = self._closed = False

    def close(self) -> None:
        """Let no more requests run. Those that wait do so until the process ends."""
        self._closed = True

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not (self._alone or self._waiting or self._closed))
            self._open += 1
        try:
            yield
        finally:
            async with self._changed:
                self._open -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: not (self._alone or self._open or self._closed))
                self._alone = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                self._alone = False
                self._changed.notify_all()


class Announced:
    """Wrap an engine's `generate`. Raises ValueError for a request that ended its engine again and again.

    Args:
        generate: called with the argument `prompt`; yields outputs with `finished`.
        start, end: count a start of a key, and return the earlier ones without an end; forget a key.
        fatal: exception of a dead engine; the process ends after it.
    """

    def __init__(
        self,
        generate: Generate,
        start: Callable[[str], Any],
        end: Callable[[str], Any],
        fatal: type[Exception],
    ) -> None:
        self.generate, self.start, self.end, self.fatal = generate, start, end, fatal
        self.turns = Turns()
        self.same: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, *args: Any, prompt: Any, **kwargs: Any) -> AsyncIterator[Any]:
        key = hashlib.sha256(repr(prompt).encode()).hexdigest()[:32]
        # Equal requests run one after another: the start of one is no death of the other.
        lock = self.same.setdefault(key, asyncio.Lock())
        async with lock:
            async for output in self._outputs(key, *args, prompt=prompt, **kwargs):
                yield output

    async def _outputs(self, key: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with self.turns.together():
            deaths = await self.start(key)
            if deaths < BATCH_TRIES:
                async for output in self._generate((key,), *args, **kwargs):
                    yield output
                return
        async with self.turns.alone():
            if await self.start(f"{ALONE}{key}") >= ROW_TRIES:
                # Its deaths are kept: if another request ends the engine, Ray repeats their batch.
                raise ValueError(
                    f"its generation ended the engine {ROW_TRIES} times, for example for want of memory"
                )
            async for output in self._generate((key, f"{ALONE}{key}"), *args, **kwargs):
                yield output

    async def _generate(self, keys: tuple[str, ...], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Yield the outputs, and forget the keys unless the engine dies."""
        try:
            async for output in self.generate(*args, **kwargs):
                if output.finished:
                    break
                yield output
        except self.fatal:
            self.turns.close()
            raise
        except BaseException:
            await self._end(*keys)
            raise
        await self._end(*keys)  # before the last output: its reader then closes this generator
        yield output

    async def _end(self, *keys: str) -> None:
        for key in keys:
            await self.end(key)
