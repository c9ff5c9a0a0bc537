"""What stands between the OpenAI layer and the engine: every request passes `Guard.generate`.

All endpoints call `AsyncLLM.generate`. The guard in its place refuses prompts that hold the tag, sets
the processor's mode or runs a search, turns a stop at the tag into finish_reason "content_filter",
and notes P(tag) of every token from the log-probabilities that the engine returns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vllm.exceptions import VLLMValidationError

from safety_ray.core.errors import UserError
from safety_ray.decode.processor import MODE_ARG, PROMPT_ARG, REPORT_ARG, THRESHOLD_ARG, check_sampling
from serve.metrics import Metrics
from serve.report import Report
from serve.safety import Asked, Limits, asked
from serve.searching import Searching

KEY_ARG = "safety_key"  # names a request's place in `Guard.requests`


class Request:
    """What one HTTP request asked for, and the reports of its answers so far."""

    def __init__(self, wanted: Asked, per_token: bool) -> None:
        self.wanted, self.per_token = wanted, per_token
        self.reports: list[Report] = []


class Guard:
    """Wraps the `generate` of an engine client; `requests` holds the requests under way by their key."""

    def __init__(self, client: Any, settings: dict[str, Any], metrics: Metrics) -> None:
        self._client, self._generate, self._settings = client, client.generate, settings
        self.tag_id: int | None = settings["tag_id"]
        self.default = Asked(**settings["asked"])
        self.limits = Limits(**settings["limits"])
        self.requests: dict[str, Request] = {}
        self._metrics = metrics
        raw = client.model_config.logprobs_mode == "raw_logprobs"
        self._can_measure = self.tag_id is not None and settings["report"] and raw
        self._max_logprobs = int(client.model_config.max_logprobs) - 1  # one place is the tag's

    def asked(self, values: Any) -> Asked:
        """What a request's field `safety` asks for; UserError where it may not."""
        return asked(values, self.default, self.limits)

    def generate(self, prompt: Any, params: Any, request_id: str, **more: Any) -> AsyncGenerator[Any, None]:
        """As AsyncLLM.generate. Raises VLLMValidationError (HTTP 400) for what the guard refuses."""
        ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
        if ids is None or self.tag_id in ids:
            raise VLLMValidationError("the prompt holds the harmfulness tag, or is not made of token ids.")
        params = copy.copy(params)
        values = dict(params.extra_args or {})
        request = self.requests.get(values.pop(KEY_ARG, "")) or Request(self.default, False)
        wanted = request.wanted
        try:
            self._check(wanted, params)
        except UserError as error:
            raise VLLMValidationError(str(error)) from error
        reports = [Report(wanted, request.per_token) for _ in range(params.n)]
        request.reports += reports
        params.extra_args = values
        decode = self._search if wanted.searches else self._plain
        return self._counted(decode(prompt, params, request_id, wanted, reports, more), wanted, reports)

    def _check(self, wanted: Asked, params: Any) -> None:
        if params.logprob_token_ids is not None:
            raise UserError("logprob_token_ids is not offered here: ask for logprobs.")
        if params.logprobs is not None and not 0 <= params.logprobs <= self._max_logprobs:
            raise UserError(f"logprobs={params.logprobs} must be 0 to {self._max_logprobs}.")
        rows = wanted.rows * (params.n if wanted.mode == "sample" else 1)
        if max(rows, params.n) > self.limits.max_rows:
            raise UserError(
                f"n={params.n} answers take more than the {self.limits.max_rows} rows allowed here."
            )
        if wanted.searches:
            wanted.check_sampling(params)
        elif self.tag_id is not None:
            check_sampling(wanted.engine(), self.tag_id, params)

    async def _plain(
        self, prompt: Any, params: Any, request_id: str, wanted: Asked, reports: list[Report], more: Any
    ) -> AsyncGenerator[Any, None]:
        """The engine's own decoding, masked or stopped."""
        asked_for, ends = params.logprobs, wanted.engine().ends_texts
        if self._can_measure:
            params.logprobs = (asked_for or 0) + 1
        if self.tag_id is not None:
            params.extra_args = {
                **params.extra_args,
                MODE_ARG: wanted.mode,
                THRESHOLD_ARG: wanted.threshold,
                PROMPT_ARG: wanted.prompt_threshold,
                REPORT_ARG: self._can_measure,
            }
            if ends:  # the processor forces the tag, and the engine stops at it
                params.stop_token_ids = sorted({*(params.stop_token_ids or ()), self.tag_id})
        async with aclosing(self._generate(prompt, params, request_id, **more)) as outputs:
            async for output in outputs:
                for choice in output.outputs:
                    if self._can_measure:
                        self._measure(choice, reports[choice.index], asked_for)
                    if ends and choice.finish_reason == "stop" and choice.stop_reason == self.tag_id:
                        self._stopped(choice, reports[choice.index])
                yield output

    def _measure(self, choice: Any, report: Report, asked_for: int | None) -> None:
        """Note the tag's log-probability of each token, and take out what the client did not ask for."""
        steps = choice.logprobs or []
        report.add([self._share(step) for step in steps])
        if asked_for is None:
            choice.logprobs = choice.cumulative_logprob = None
            return
        for step, token in zip(steps, choice.token_ids, strict=False):
            tag = step.get(self.tag_id)
            if tag is None or token == self.tag_id:
                continue
            likelier = sum(e.logprob > tag.logprob for other, e in step.items() if other != self.tag_id)
            if likelier >= asked_for:
                del step[self.tag_id]

    def _share(self, step: Any) -> float | None:
        entry = step.get(self.tag_id)
        return None if entry is None else min(math.exp(entry.logprob), 1.0)

    def _stopped(self, choice: Any, report: Report) -> None:
        choice.finish_reason, choice.stop_reason = "content_filter", None
        # A client may have asked for special tokens and stops in the text.
        choice.text = choice.text.removesuffix(self._settings["tag"]) + self._settings["refusal"]
        report.stopped = True

    async def _search(
        self, prompt: Any, params: Any, request_id: str, wanted: Asked, reports: list[Report], more: Any
    ) -> AsyncGenerator[Any, None]:
        """A search instead of the engine's own decoding."""
        client = self._client
        assert self.tag_id is not None
        params.update_from_generation_config(
            client.input_processor.generation_config_fields, client.renderer.get_eos_token_id()
        )
        # The last look-ahead stands one token behind the answer.
        room = client.model_config.max_model_len - len(prompt["prompt_token_ids"]) - 1
        length = min(params.max_tokens or room, room)
        if length < 1:
            raise VLLMValidationError("the prompt leaves no room for a search: shorten it.")
        number = params.n if wanted.mode == "sample" else 1
        searches = [wanted.search(params, self.tag_id, length, i) for i in range(number)]
        run = Searching(
            self._generate,
            client.renderer.tokenizer,
            prompt,
            params,
            wanted,
            refusal=self._settings["refusal"],
            on_step=self._metrics.step,
        )
        with self._metrics.searching(number):
            async with aclosing(run.outputs(searches, reports, request_id, **more)) as outputs:
                async for output in outputs:
                    yield output

    async def _counted(
        self, stream: AsyncGenerator[Any, None], wanted: Asked, reports: list[Report]
    ) -> AsyncGenerator[Any, None]:
        """`stream`, each of whose answers is counted once, however the request ends."""
        outcomes: dict[int, str] = {}
        ended = "cancelled"
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    for choice in output.outputs:
                        if choice.finish_reason:
                            outcomes[choice.index] = choice.finish_reason
                    yield output
            ended = "error"
        except Exception:
            ended = "error"
            raise
        finally:
            for index, report in enumerate(reports):
                self._metrics.answer(wanted.mode, outcomes.get(index, ended), report.known)
