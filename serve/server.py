"""One replica: Ray Serve LLM's server around a guarded vLLM engine.

Here is all that leans on the insides of Ray Serve LLM and of vLLM's frontend: the request's field
`safety`, prompts without forged tokens, the report in each answer, and why an engine did not start.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from ray.llm._internal.serve.core.configs.openai_api_models import ErrorInfo, ErrorResponse
from ray.serve.llm.deployment import LLMServer
from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.renderers.registry import RENDERER_REGISTRY
from vllm.utils.async_utils import make_async

from safety_ray.chat.encoder import ChatEncoder
from safety_ray.compat.killed_children import last_killed, worker_log
from safety_ray.core.errors import UserError
from safety_ray.decode.vllm_processor import CONFIG_KEY
from serve.guard import KEY_ARG, Guard, Request
from serve.metrics import Metrics
from serve.report import Report, in_answer, in_event
from serve.safety import PREFIX


class PlainTextRenderer(HfRenderer):
    """vLLM's renderer, in which no text of a request becomes a special token."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        encoder = ChatEncoder(tokenizer, config.additional_config[CONFIG_KEY]["tag_id"])
        super().__init__(config, tokenizer)

        def chat_ids(
            model_config: Any, tokenizer: Any, conversation: list[Any], **variables: Any
        ) -> list[int]:
            render = partial(safe_apply_chat_template, model_config, tokenizer)
            variables.pop("tokenize", None)
            return encoder.encode(partial(render, tokenize=False), conversation, **variables)

        self._apply_chat_template_async = make_async(chat_ids, executor=self._executor)

    def _tokenize_prompt(self, prompt: Any, params: Any) -> Any:
        # Said in each call: the copies vLLM makes of a tokenizer forget what was set on it.
        encoding = self.get_tokenizer()(
            prompt["prompt"], split_special_tokens=True, **params.get_encode_kwargs()
        )
        return self._build_tokens_prompt(encoding["input_ids"], prompt)


class SafetyServer(LLMServer):
    """Ray Serve LLM's server with the guard, and a body field `safety` (see safety.py)."""

    async def start(self) -> None:
        self._metrics = Metrics()
        RENDERER_REGISTRY.register("hf", __name__, PlainTextRenderer.__name__)
        try:
            await super().start()
        except Exception as error:
            raise RuntimeError(f"{_FAILED}{_root_cause(error)}") from error
        client = self.engine._engine_client
        if not isinstance(client.renderer, PlainTextRenderer):
            raise RuntimeError(
                f"{_FAILED}tokenizers of mode '{client.model_config.tokenizer_mode}' are not served"
            )
        # The engine wrapper of Ray 2.60 looks for it under a name that vLLM 0.29 gave up.
        self.engine._oai_serving_tokenization = getattr(self.engine._app_state, "serving_tokenization", None)
        settings = client.vllm_config.additional_config[CONFIG_KEY]
        self._timeout_s: float = settings["timeout_s"]
        self._interval_s: float = settings["stream_interval_ms"] / 1000
        self._guard = Guard(client, settings, self._metrics)
        client.generate = self._guard.generate
        encoder = ChatEncoder(client.renderer.tokenizer, self._guard.tag_id)
        # What the tokenizer itself puts before a text, e.g. a beginning-of-text token, may come back.
        self._special, self._prefix = encoder.special, client.renderer.tokenizer("")["input_ids"]

    async def check_health(self) -> None:  # Ray Serve asks every health_check_period_s
        try:
            await super().check_health()
        except Exception as error:
            raise RuntimeError(last_killed(worker_log()) or _root_cause(error)) from error
        self._metrics.refresh()

    async def completions(self, request: Any, raw_request_info: Any = None) -> Any:
        return await self._guarded(super().completions, request, raw_request_info)

    async def chat(self, request: Any, raw_request_info: Any = None) -> Any:
        return await self._guarded(super().chat, request, raw_request_info)

    async def _guarded(self, call: Any, request: Any, raw_request_info: Any) -> Any:
        key = uuid.uuid4().hex
        try:
            self._prepare(request, key)
        except UserError as error:
            return _refusal(str(error))
        try:
            stream = await call(request, raw_request_info)
        except BaseException:
            self._guard.requests.pop(key, None)
            raise
        return self._with_reports(stream, key, bool(request.stream))

    def _prepare(self, request: Any, key: str) -> None:
        """Check the request and leave what it asks for where the guard finds it."""
        xargs = request.vllm_xargs or {}
        asked = (request.model_extra or {}).get("safety")
        if asked is None:
            asked = {k.removeprefix(PREFIX): v for k, v in xargs.items() if k.startswith(PREFIX)}
        wanted = self._guard.asked(asked)
        if getattr(request, "use_beam_search", False):
            raise UserError("use_beam_search is not offered here: ask for safety mode safebeam.")
        if request.kv_transfer_params:
            raise UserError("kv_transfer_params is not offered here: token ids could pass the checks by it.")
        self._check_ids(getattr(request, "prompt", None))
        request.vllm_xargs = {k: v for k, v in xargs.items() if not k.startswith(PREFIX)} | {KEY_ARG: key}
        logprobs = request.logprobs  # a number for completions, true or false for chats
        self._guard.requests[key] = Request(wanted, logprobs is not None and logprobs is not False)

    def _check_ids(self, prompt: Any) -> None:
        if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], str):
            return
        for ids in prompt if isinstance(prompt[0], list) else [prompt]:
            n = len(self._prefix)
            body = ids[n:] if n and ids[:n] == self._prefix else ids
            if special := sorted(self._special.intersection(body)):
                raise UserError(f"the prompt holds the special token ids {special}: give text instead.")

    async def _with_reports(self, stream: Any, key: str, streams: bool) -> AsyncGenerator[Any, None]:
        reports = self._guard.requests[key].reports
        begun = False
        try:
            events = _together(stream, self._interval_s) if streams else stream
            async with aclosing(_until(events, self._timeout_s)) as items:
                async for item in items:
                    yield _reported(item, reports)
                    begun = streams
        except TimeoutError:
            message = f"the answer took longer than this endpoint's request_timeout_s={self._timeout_s:g}."
            error = ErrorInfo(message=message, type="timeout", code=503)
            # What has begun to stream has its status already.
            yield _error_event(error) if begun else ErrorResponse(error=error)
        finally:
            del self._guard.requests[key]


_END = object()


async def _until(stream: Any, timeout_s: float) -> AsyncGenerator[Any, None]:
    """The items of `stream`; TimeoutError once it has taken too long, and it is closed."""
    end = asyncio.get_running_loop().time() + timeout_s
    async with aclosing(stream) as items:
        while True:
            item = _END
            async with asyncio.timeout_at(end) as limit:
                item = await anext(items, _END)
            if limit.expired():  # vLLM's frontend makes an answer even of being cancelled
                raise TimeoutError
            if item is _END:
                return
            yield item


async def _together(stream: Any, interval_s: float) -> AsyncGenerator[list[Any], None]:
    """The events of `stream` in lists: the first at once, then what has come since the last list.

    Each list is a message from replica to ingress to proxy: one per token would cost more than the token.
    """
    come: asyncio.Queue[Any] = asyncio.Queue()

    async def read() -> None:
        try:
            async with aclosing(stream) as items:
                async for item in items:
                    for event in item if isinstance(item, list) else [item]:
                        come.put_nowait(event)
        finally:
            come.put_nowait(_END)

    reading = asyncio.create_task(read())
    try:
        events = [await come.get()]
        while True:
            events += [come.get_nowait() for _ in range(come.qsize())]
            ended = events[-1] is _END
            if ended:
                events.pop()
            if events:
                yield events
            if ended:
                break
            await asyncio.wait({reading}, timeout=interval_s)
            events = [] if come.qsize() else [await come.get()]
        await reading  # raises what ended the stream
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _reported(item: Any, reports: list[Report]) -> Any:
    if isinstance(item, list):
        return [in_event(part, reports) if isinstance(part, str) else part for part in item]
    return in_event(item, reports) if isinstance(item, str) else in_answer(item, reports)


async def _refusal(message: str) -> AsyncGenerator[ErrorResponse, None]:
    yield ErrorResponse(error=ErrorInfo(message=message, type="BadRequestError", code=400))


def _error_event(error: ErrorInfo) -> str:
    return f"data: {json.dumps({'error': error.model_dump()})}\n\ndata: [DONE]\n\n"


_FAILED = "the engine did not start: "
_ELSEWHERE = ("root cause", "background process")  # lines that only say that there was an error


def _root_cause(error: Exception) -> str:
    """The reason in one line; what befell the engine's own processes stands in this worker's log alone."""
    message = str(error) or type(error).__name__
    if not any(words in message for words in _ELSEWHERE):
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        kept = [line for line in lines if not line.startswith("For further information")]
        return (kept or lines)[-1].split(" [type=")[0].removeprefix("Value error, ")
    log = worker_log()
    return last_killed(log) or last_error(log) or message


def last_error(log: str) -> str | None:
    """The last `SomeError: why` in a log, without lines that only point to another one."""
    found = re.findall(r"\b(\w+(?:Error|Exception): .+)", log)
    return next((line for line in reversed(found) if not any(words in line for words in _ELSEWHERE)), None)
