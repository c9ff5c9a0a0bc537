"""A hung engine is ended: whoever waits for it would wait for ever, and Ray begins only dead ones anew.

ray.data.llm ends an engine's actor where vLLM says that its processes died, and Ray Data then starts another
and repeats the rows that were not done. A process that neither works nor dies says nothing.

What ray.data.llm drops of an answer is kept here, too: how much of its prompt the prefix cache held.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is put in the place of vLLM's own metrics of an answer, which nobody asked for."""

    cached_tokens: int
    """tokens of the prompt that the prefix cache held"""


class Watch:
    """Calls `end` once requests are open and none of them has made a token for `timeout_s` seconds.

    `hear` is to be called for each step of the engine that made some.
    """

    def __init__(self, timeout_s: float, end: Callable[[], None]) -> None:
        self.timeout_s, self.end = timeout_s, end
        self.open, self.heard = 0, time.monotonic()
        threading.Thread(target=self._look, daemon=True).start()

    def hear(self) -> None:
        self.heard = time.monotonic()

    async def listen(self, stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """What `stream` gives; its request is open until it ends."""
        if not self.open:
            self.hear()
        self.open += 1
        try:
            async for said in stream:
                yield said
        finally:
            self.open -= 1

    def _look(self) -> None:
        while True:
            time.sleep(min(1.0, self.timeout_s / 4))
            if self.open and time.monotonic() - self.heard > self.timeout_s:
                self.end()
                return


def watched(udf: type, timeout_s: float) -> type:
    """ray.data.llm's actor class of an engine, with a watch over that engine."""

    class Watched(udf):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            from vllm.sampling_params import RequestOutputKind

            engine = self.llm.engine
            generate, watch = engine.generate, Watch(timeout_s, end_actor)
            process = engine.output_processor.process_outputs

            def heard(*args: Any, **kwargs: Any) -> Any:
                watch.hear()
                return process(*args, **kwargs)

            def asked(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                # ray.data.llm waits for the whole answer: handing on each token would cost time for nothing.
                kwargs["sampling_params"].output_kind = RequestOutputKind.FINAL_ONLY
                return watch.listen(_with_cached(generate(*args, **kwargs)))

            engine.output_processor.process_outputs, engine.generate = heard, asked

    return Watched


async def _with_cached(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for said in stream:
        said.metrics = Metrics(said.num_cached_tokens or 0)
        yield said


def end_actor() -> None:
    """End this process and the engine's, which could hold their GPUs for ever, a stopped one too."""
    import psutil

    logger.error("the engine has made no token for engine.timeout_s; it is begun anew")
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)  # an exit that Ray takes for a crash: it repeats the rows on a new actor
