"""Streams of a replica: deadlines, several events per message, and errors."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from safety_ray.compat.ray_llm import ErrorInfo, ErrorResponse
from serve.errors import HAS_FAILED, EndpointError, error_body, error_event
from serve.failed_requests import describe

_END = object()
_ERROR_EVENT = re.compile(r'data:\s*\{\s*"error"')


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


async def with_public_errors(stream: Any, streams: bool) -> AsyncGenerator[Any, None]:
    """Yield the items of `stream`, and end it at the first error, as a client receives it.

    An error is an exception, or an ErrorResponse or event of vLLM's OpenAI layer. It becomes an event if the
    request `streams` and an item has been sent, and otherwise an ErrorResponse, which has an HTTP status.
    """
    started = False
    try:
        async with aclosing(stream) as items:
            async for item in items:
                events = item if isinstance(item, list) else [item]
                errors = [_reported_error(event) for event in events]
                error = next((error for error in errors if error is not None), None)
                before = item if error is None else events[: errors.index(error)]
                if before:
                    yield before
                    started = streams
                if error is not None:
                    raise error
    except Exception as error:
        described = describe(error)
        yield error_event(described) if started else _error_answer(described)


def _error_answer(error: EndpointError) -> ErrorResponse:
    return ErrorResponse(error=ErrorInfo(**error_body(error)["error"]))


def _reported_error(event: Any) -> EndpointError | None:
    """Return the error that an item of vLLM's OpenAI layer reports, or None."""
    if isinstance(event, ErrorResponse):
        error = event.error.model_dump()
    elif isinstance(event, str) and _ERROR_EVENT.match(event):
        error = json.loads(event.removeprefix("data:"))["error"]
    else:
        return None
    message = HAS_FAILED if error["code"] >= 500 else error["message"]
    return EndpointError(error["code"], message, error["param"])
