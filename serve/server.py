"""One replica: Ray Serve LLM's server around a vLLM engine behind the guard."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ray.serve.llm.deployment import LLMServer

from safety_ray.chat.encoder import ChatEncoder
from safety_ray.compat.ray_llm import (
    CompletionRequest,
    engine_client,
    keep_hub_tokens_out_of_runtime_envs,
    model_card,
    offer_tokenization,
)
from safety_ray.compat.versions import check_versions
from safety_ray.compat.vllm_renderer import PlainTextRenderer, use_renderer
from safety_ray.compat.vllm_runners import describe_runner
from safety_ray.core.errors import UserError
from safety_ray.decode.vllm_processor import CONFIG_KEY
from serve.autoscaling import ROWS
from serve.direct import DirectServer, DirectSettings, direct_app
from serve.errors import EndpointError
from serve.failures import NOT_STARTED, health_failure, root_cause
from serve.guard import KEY_ARG, Guard, GuardedRequest
from serve.guard_check import check_guard
from serve.metrics import Metrics
from serve.options import check_fields, check_number, options_in_xargs
from serve.report import add_reports
from serve.row_queue import RowQueue
from serve.settings import check_rows
from serve.streams import batch_events, with_deadline, with_public_errors

_logger = logging.getLogger("ray.serve")


class GuardedRenderer(PlainTextRenderer):
    """vLLM's renderer, in which a request's text never becomes a control token."""

    def chat_tokenizer(self, config: Any, tokenizer: Any) -> ChatEncoder:
        return ChatEncoder(tokenizer, config.additional_config[CONFIG_KEY]["tag_id"])


class SafetyServer(LLMServer):
    """Ray Serve LLM's server with the guard and the request field `safety` (options.py)."""

    _direct: DirectSettings | None = None
    _http: DirectServer | None = None

    async def __init__(self, llm_config: Any, *, direct: DirectSettings | None = None, **kwargs: Any) -> None:  # type: ignore[misc]
        """Start the replica; with `direct`, it answers HTTP itself (direct.py)."""
        self._direct = direct
        await super().__init__(llm_config, **kwargs)

    async def start(self) -> None:
        """Start the engine, install the guard and check it; raise RuntimeError if any of these fails."""
        self._metrics = Metrics()
        try:
            check_versions("ray", "vllm")
            keep_hub_tokens_out_of_runtime_envs()
            self.install_renderer()
            await super().start()
        except Exception as error:
            raise RuntimeError(f"{NOT_STARTED}{root_cause(error)}") from error
        self.client = engine_client(self)
        _logger.info("The engine is %s.", describe_runner(self.client.vllm_config))
        if not isinstance(self.client.renderer, PlainTextRenderer):
            mode = self.client.model_config.tokenizer_mode
            raise RuntimeError(f"{NOT_STARTED}tokenizer_mode '{mode}' is not supported")
        offer_tokenization(self)
        settings = self.client.vllm_config.additional_config[CONFIG_KEY]
        self._timeout_s: float = settings["timeout_s"]
        self._interval_s: float = settings["stream_interval_ms"] / 1000
        self.guard = Guard(self.client, settings, self._metrics)
        num_seqs = self.client.vllm_config.scheduler_config.max_num_seqs
        self.rows = RowQueue(num_seqs, settings["max_waiting"])
        self.install_guard()
        tokenizer = self.client.renderer.tokenizer
        self._vocabulary: int = self.client.model_config.get_vocab_size()
        self._control_ids = ChatEncoder(tokenizer, self.guard.tag_id).control
        # Clients may send what the tokenizer puts before a text. Evaluation harnesses begin a text without
        # context with the beginning-of-text token or, if there is none, the end-of-text token.
        starts = [tokenizer("")["input_ids"], [tokenizer.bos_token_id], [tokenizer.eos_token_id]]
        self._starts: list[list[int]] = [ids for ids in starts if ids and None not in ids]
        try:
            check_rows(self.guard.limits.max_rows, num_seqs)
            await check_guard(self)
            if self._direct is not None:
                self._http = DirectServer(direct_app(self, self._direct, model_card(self._llm_config)))
                await self._http.start(self._direct.host, self._direct.port)
        except Exception as error:
            raise RuntimeError(f"{NOT_STARTED}{error}") from error
        self._metrics.enabled = True

    async def __del__(self) -> None:  # Ray Serve awaits it when the replica ends
        if self._direct is not None and self._http is not None:
            await self._http.drain(self._direct.drain_s)
        await super().__del__()

    def install_renderer(self) -> None:
        """Make the engine tokenize a request's text without control tokens."""
        use_renderer(GuardedRenderer)

    def install_guard(self) -> None:
        """Make the OpenAI layer call the guard instead of the engine."""
        self.guard.install()

    async def check_health(self) -> None:  # Ray Serve calls it every health_check_period_s
        try:
            if self._http is not None:
                self._http.check()
            await super().check_health()
        except Exception as error:
            raise RuntimeError(health_failure(error)) from error
        self._metrics.refresh()

    async def record_autoscaling_stats(self) -> dict[str, float]:  # Ray Serve calls it
        return {ROWS: self.rows.rows}

    async def completions(self, request: Any, raw_request_info: Any = None) -> Any:
        return self._answer(super().completions, request, raw_request_info)

    async def chat(self, request: Any, raw_request_info: Any = None) -> Any:
        return self._answer(super().chat, request, raw_request_info)

    async def tokenize(self, request: Any, raw_request_info: Any = None) -> Any:
        return with_public_errors(_call(super().tokenize, request, raw_request_info), streams=False)

    async def detokenize(self, request: Any, raw_request_info: Any = None) -> Any:
        return with_public_errors(
            self._detokenize(super().detokenize, request, raw_request_info), streams=False
        )

    async def _detokenize(
        self, method: Any, request: Any, raw_request_info: Any
    ) -> AsyncGenerator[Any, None]:
        self._check_ids(request.tokens)
        async for item in _call(method, request, raw_request_info):
            yield item

    def _answer(self, method: Any, request: Any, raw_request_info: Any) -> AsyncGenerator[Any, None]:
        """Yield the answer to a request for text, with its safety reports and with errors for clients."""
        streams = bool(request.stream)
        return with_public_errors(self._with_reports(method, request, raw_request_info, streams), streams)

    def _prepare(self, request: Any, key: str) -> None:
        """Check the request and register its options with the guard under `key`."""
        check_fields(request)
        values = (request.model_extra or {}).get("safety")
        xargs = options_in_xargs(request.vllm_xargs or {})
        if values is not None and xargs:
            raise UserError("give the safety options in safety or in vllm_xargs, not in both.")
        options = self.guard.parse(xargs if values is None else values)
        # before they are counted (row_queue.py)
        check_number(options, _num_answers(request), self.guard.limits, _num_prompts(request))
        self._check_prompt_ids(getattr(request, "prompt", None))
        if options.decoding.searches:  # the model's own defaults are for sampling; a search would refuse them
            for name, neutral in (("repetition_penalty", 1.0), ("min_p", 0.0), ("top_k", 0)):
                if getattr(request, name) is None:
                    setattr(request, name, neutral)
        request.vllm_xargs = {KEY_ARG: key}
        logprobs = request.logprobs  # a number in completions, true or false in chats
        per_token = logprobs is not None and logprobs is not False
        echo = isinstance(request, CompletionRequest) and bool(request.echo)
        prompt_only = echo and request.max_tokens == 0
        self.guard.requests[key] = GuardedRequest(options, per_token, echo, prompt_only)

    def _check_prompt_ids(self, prompt: Any) -> None:
        """Raise UserError for token ids that are unknown, or are control tokens behind the beginning."""
        if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], str):
            return
        for ids in prompt if isinstance(prompt[0], list) else [prompt]:
            self._check_ids(ids)
            start = next((start for start in self._starts if ids[: len(start)] == start), [])
            if control := sorted(self._control_ids.intersection(ids[len(start) :])):
                raise UserError(f"the prompt contains the control token ids {control}; send text instead.")

    def _check_ids(self, ids: list[int]) -> None:
        """Raise UserError for a token id that the model does not have."""
        if unknown := [id for id in ids if not 0 <= id < self._vocabulary]:
            raise UserError(
                f"the token id {unknown[0]} is not in the vocabulary of {self._vocabulary} tokens."
            )

    async def _with_reports(
        self, method: Any, request: Any, raw_request_info: Any, streams: bool
    ) -> AsyncGenerator[Any, None]:
        """Yield the answer to `request` with the safety reports in it; end it after the request timeout."""
        key = uuid.uuid4().hex
        try:
            self._prepare(request, key)
            reports = self.guard.requests[key].reports
            stream = self._when_rows_are_free(key, request, _call(method, request, raw_request_info))
            events = batch_events(stream, self._interval_s) if streams else stream
            async with aclosing(with_deadline(events, self._timeout_s)) as items:
                async for item in items:
                    yield add_reports(item, reports)
        except TimeoutError as error:
            message = f"the answer took longer than this endpoint's request_timeout_s={self._timeout_s:g}."
            raise EndpointError(503, message) from error
        finally:
            self.guard.requests.pop(key, None)

    async def _when_rows_are_free(self, key: str, request: Any, stream: Any) -> AsyncGenerator[Any, None]:
        """Yield the answer to `request` while it holds its rows of the engine's batch."""
        options = self.guard.requests[key].options
        answers = _num_prompts(request) * (_num_answers(request) if options.decoding.samples else 1)
        async with (
            aclosing(stream) as items,
            self.rows.take(answers * options.rows, searches=options.decoding.searches),
        ):
            async for item in items:
                yield item


def _num_prompts(request: Any) -> int:
    prompt: Any = getattr(request, "prompt", None)  # a chat has one
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def _num_answers(request: Any) -> int:
    return 1 if request.n is None else int(request.n)


async def _call(method: Any, request: Any, raw_request_info: Any) -> AsyncGenerator[Any, None]:
    """Yield what a method of Ray Serve LLM's server answers."""
    async with aclosing(await method(request, raw_request_info)) as items:
        async for item in items:
            yield item
