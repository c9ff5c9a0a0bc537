"""Kill an engine that stops producing tokens, so that Ray restarts the actor; report why an engine ended.

If vLLM reports that its processes died, ray.data.llm ends the engine's actor, and Ray Data starts a new actor
and repeats the unfinished rows. A process that hangs reports nothing.

This module also keeps a value that ray.data.llm drops: the number of prompt tokens found in the prefix cache.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from safety_ray.compat.killed_children import last_killed, worker_log
from safety_ray.core import worker_deaths
from safety_ray.llm.engine_deaths import ALONE, Announced


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of an answer, in place of vLLM's own metrics, which are not used."""

    cached_tokens: int
    """prompt tokens found in the prefix cache"""


_REPORT_S = 10.0


class Watch:
    """Call `end` if requests are open and no token has been generated for `timeout_s` seconds.

    Call `hear` after each engine step that generated tokens.
    """

    def __init__(self, timeout_s: float, end: Callable[[], None]) -> None:
        self.timeout_s, self.end = timeout_s, end
        self.open, self.heard = 0, time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def hear(self) -> None:
        self.heard = time.monotonic()

    async def listen(self, stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the items of `stream`; its request counts as open until the stream ends."""
        if not self.open:
            self.hear()
        self.open += 1
        try:
            async for item in stream:
                yield item
        finally:
            self.open -= 1

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self.timeout_s / 4))
            if self.open and time.monotonic() - self.heard > self.timeout_s:
                self.end()
                return


def watched(udf: type, timeout_s: float, notices: Any, requests: worker_deaths.Watch) -> type:
    """Return ray.data.llm's actor class for an engine, extended with a `Watch` on that engine.

    `notices` is the handle of a `safety_ray.llm.notices.Notices`, which receives the reason if it ends.
    `requests` counts the deaths of each request: another model, which has a watch of its own, may answer
    requests that end this one's engine.
    """

    class Watched(udf):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            from vllm.sampling_params import RequestOutputKind
            from vllm.v1.engine.exceptions import EngineDeadError

            engine = self.llm.engine
            watch = Watch(timeout_s, lambda: end_actor(timeout_s, notices))
            generate = Announced(
                _Reporting(engine.generate, notices),
                lambda key: requests.announce(key, None if key.startswith(ALONE) else 1),
                requests.end,
                EngineDeadError,
            )
            process = engine.output_processor.process_outputs

            def process_outputs(*args: Any, **kwargs: Any) -> Any:
                watch.hear()
                return process(*args, **kwargs)

            def generate_watched(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                # ray.data.llm waits for the whole answer, so streaming each token would only add overhead.
                kwargs["sampling_params"].output_kind = RequestOutputKind.FINAL_ONLY
                return watch.listen(_with_cached(generate(*args, **kwargs)))

            engine.output_processor.process_outputs, engine.generate = process_outputs, generate_watched

    return Watched


async def _with_cached(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Set the metrics of each output."""
    async for output in stream:
        output.metrics = Metrics(output.num_cached_tokens or 0)
        yield output


class _Reporting:
    """Wrap vLLM's `generate` to report a dead engine before ray.data.llm ends the actor."""

    def __init__(self, generate: Callable[..., AsyncIterator[Any]], notices: Any) -> None:
        self.generate, self.notices = generate, notices
        self.reported: asyncio.Task[None] | None = None

    async def __call__(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async for output in self.generate(*args, **kwargs):
                yield output
        except EngineDeadError as error:
            # One report for all open requests: the first request that fails ends the actor.
            self.reported = self.reported or asyncio.create_task(self.report(str(error)))
            await asyncio.shield(self.reported)
            raise

    async def report(self, error: str) -> None:
        """Send the reason for the engine's end to the driver."""
        reason = None
        for _ in range(20):  # the engine core may still print which signal killed its worker
            if reason := last_killed(worker_log()):
                break
            await asyncio.sleep(0.1)
        sent = self.notices.put.remote(f"{reason or error} Ray restarts the engine.")
        await asyncio.wait([asyncio.wrap_future(sent.future())], timeout=_REPORT_S)


def end_actor(timeout_s: float, notices: Any) -> None:
    """Kill this process and the engine's processes, including stopped ones, which would keep their GPUs."""
    import psutil
    import ray

    reason = f"the engine generated no token for engine.timeout_s={timeout_s:g} s and was killed."
    ray.wait([notices.put.remote(f"{reason} Ray restarts the engine.")], timeout=_REPORT_S)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)  # Ray treats this exit as a crash and repeats the rows on a new actor
