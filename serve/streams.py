"""Streams of a replica: deadlines, and several events per message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

_END = object()


async def with_deadline(stream: Any, timeout_s: float) -> AsyncGenerator[Any, None]:
    """Yield the items of `stream`; close it and raise TimeoutError after `timeout_s` seconds."""
    end = asyncio.get_running_loop().time() + timeout_s
    async with aclosing(stream) as items:
        while True:
            item = _END
            async with asyncio.timeout_at(end) as limit:
                item = await anext(items, _END)
            if limit.expired():  # vLLM's frontend turns a cancellation into an ordinary answer
                raise TimeoutError
            if item is _END:
                return
            yield item


async def batch_events(stream: Any, interval_s: float) -> AsyncGenerator[list[Any], None]:
    """Yield the events of `stream` in lists: the first event alone, then all events of each interval.

    Each list is one message from replica to ingress to proxy; one message per token would cost more than the
    token.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def read() -> None:
        try:
            async with aclosing(stream) as items:
                async for item in items:
                    for event in item if isinstance(item, list) else [item]:
                        queue.put_nowait(event)
        finally:
            queue.put_nowait(_END)

    reader = asyncio.create_task(read())
    try:
        events = [await queue.get()]
        while True:
            events += [queue.get_nowait() for _ in range(queue.qsize())]
            ended = events[-1] is _END
            if ended:
                events.pop()
            if events:
                yield events
            if ended:
                break
            await asyncio.wait({reader}, timeout=interval_s)
            events = [] if queue.qsize() else [await queue.get()]
        await reader  # raises the error that ended the stream
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


def error_event(error: Any) -> str:
    """Return the server-sent events that end a stream with an ErrorInfo."""
    return f"data: {json.dumps({'error': error.model_dump()})}\n\ndata: [DONE]\n\n"
