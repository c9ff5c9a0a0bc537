"""Report on the driver why an engine ended; the logs of its actors stay on their own machines."""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from typing import Any


class Notices:
    """A Ray actor that forwards messages from the engines' actors to the driver."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    async def put(self, message: str) -> None:
        await self.messages.put(message)

    async def get(self) -> str:
        return await self.messages.get()


def notices() -> Any:
    """Return the handle of this job's `Notices`; this process prints its messages to standard error."""
    import ray

    return _notices(ray.get_runtime_context().get_worker_id())


@cache
def _notices(driver: str) -> Any:
    import ray

    actor = ray.remote(Notices).options(num_cpus=0).remote()
    _print_next(actor)
    return actor


def _print_next(actor: Any) -> None:
    def print_message(future: Any) -> None:
        if future.cancelled() or future.exception():
            return  # the job has ended
        print(f"  engine: {future.result()}", file=sys.stderr, flush=True)
        _print_next(actor)

    actor.get.remote().future().add_done_callback(print_message)
