"""A hung engine is ended: whoever waits for it would wait for ever, and Ray begins only dead ones anew.

ray.data.llm ends an engine's actor where vLLM says that its processes died, and Ray Data then starts another
and repeats the rows that were not done. A process that neither works nor dies says nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

logger = logging.getLogger(__name__)


class Watch:
    """Calls `end` once requests are open and none of them has made a token for `timeout_s` seconds."""

    def __init__(self, timeout_s: float, end: Callable[[], None]) -> None:
        self.timeout_s, self.end = timeout_s, end
        self.open, self.heard = 0, time.monotonic()
        threading.Thread(target=self._look, daemon=True).start()

    async def listen(self, stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """What `stream` gives, each of it a sign of life."""
        if not self.open:
            self.heard = time.monotonic()
        self.open += 1
        try:
            async for said in stream:
                self.heard = time.monotonic()
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
            engine = self.llm.engine
            generate, watch = engine.generate, Watch(timeout_s, end_actor)
            engine.generate = lambda *args, **kwargs: watch.listen(generate(*args, **kwargs))

    return Watched


def end_actor() -> None:
    """End this process and the engine's, which could hold their GPUs for ever, a stopped one too."""
    import psutil

    logger.error("the engine has made no token for engine.timeout_s; it is begun anew")
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)  # an exit that Ray takes for a crash: it repeats the rows on a new actor
