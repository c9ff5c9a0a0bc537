"""The guard between the OpenAI layer and the engine: every request passes `Guard.generate`.

All endpoints call `AsyncLLM.generate`. The guard takes its place: it refuses prompts that contain the tag,
sets the mode of the logits processor or runs a search, turns a stop at the tag into finish_reason
"content_filter", and records P(tag): the totals that the engine sends at the end of an answer or, for
clients that request log-probabilities, those of every token.
guard_check.py verifies at start that no request can bypass it.
"""

from __future__ import annotations

import copy
import math
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cached_property
from typing import Any

from vllm.exceptions import VLLMValidationError

from safety_ray.compat.vllm_frontend import fill_generation_defaults, replace_generate
from safety_ray.core.errors import UserError
from safety_ray.decode.p_tag_totals import take_totals
from safety_ray.decode.processor import MODE_ARG, PROMPT_ARG, REPORT_ARG, THRESHOLD_ARG, check_sampling
from safety_ray.decode.words import WordStarts, word_starts
from serve.metrics import Metrics
from serve.options import Limits, SafetyOptions, check_number, parse_options
from serve.report import SafetyReport
from serve.search_run import SearchRun

KEY_ARG = "safety_key"
"""Extra argument with the key of a request in `Guard.requests`."""
REFUSED_PROMPT = "the prompt contains the harmfulness tag, or is not made of token ids."


class GuardedRequest:
    """The options of one HTTP request, and the reports of its answers so far."""

    def __init__(
        self, options: SafetyOptions, per_token: bool = False, echo: bool = False, prompt_only: bool = False
    ) -> None:
        self.options, self.per_token, self.echo, self.prompt_only = options, per_token, echo, prompt_only
        self.reports: list[SafetyReport] = []

    def add_report(self, prompt_tokens: int) -> SafetyReport:
        """Return the report of one more answer, to a prompt of this number of tokens."""
        echoed = prompt_tokens if self.echo else 0
        self.reports.append(SafetyReport(self.options, self.per_token, echoed, self.prompt_only))
        return self.reports[-1]


class Guard:
    """A replacement of an engine client's `generate`; `requests` are the running requests by their key."""

    def __init__(self, client: Any, settings: dict[str, Any], metrics: Metrics) -> None:
        self._client, self._engine_generate, self._settings = client, client.generate, settings
        self.tag_id: int | None = settings["tag_id"]
        self.tag: str = settings["tag"]
        self.default = SafetyOptions(**settings["default_options"])
        self.limits = Limits(**settings["limits"])
        self.requests: dict[str, GuardedRequest] = {}
        self.passed = 0
        """number of requests that have passed the guard"""
        self._metrics = metrics
        raw = client.model_config.logprobs_mode == "raw_logprobs"
        self._can_measure = self.tag_id is not None and settings["report"] and raw
        self._max_logprobs = int(client.model_config.max_logprobs) - 1  # one of them is the tag's

    def install(self) -> None:
        """Make the OpenAI layer call this guard instead of the engine."""
        replace_generate(self._client, self.generate)

    @cached_property
    def _words(self) -> WordStarts:
        return word_starts(self._client.renderer.tokenizer)

    def parse(self, values: Any) -> SafetyOptions:
        """Return the options in a request's field `safety`. Raises UserError if they are not allowed."""
        return parse_options(values, self.default, self.limits)

    def generate(self, prompt: Any, params: Any, request_id: str, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """Do what AsyncLLM.generate does, guarded. Raises VLLMValidationError (HTTP 400) to refuse."""
        ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
        if ids is None or self.tag_id in ids:
            raise VLLMValidationError(REFUSED_PROMPT)
        params = copy.copy(params)
        key = (params.extra_args or {}).get(KEY_ARG, "")
        request = self.requests.get(key) or GuardedRequest(self.default)
        options = request.options
        try:
            self._check(options, params)
        except UserError as error:
            raise VLLMValidationError(str(error)) from error
        reports = [request.add_report(len(ids)) for _ in range(params.n)]
        params.extra_args = {}  # the engine receives the guard's own arguments only
        self.passed += 1
        decode = self._search if options.decoding.searches else self._decode
        return self._count(decode(prompt, params, request_id, options, reports, kwargs), options, reports)

    def _check(self, options: SafetyOptions, params: Any) -> None:
        if params.logprob_token_ids is not None:
            raise UserError("logprob_token_ids is not supported; use logprobs.")
        if params.logprobs is not None and not 0 <= params.logprobs <= self._max_logprobs:
            raise UserError(f"logprobs={params.logprobs} must be 0 to {self._max_logprobs}.")
        check_number(options, params.n, self.limits)
        if options.decoding.searches:
            options.check_sampling(params)
        elif self.tag_id is not None:
            check_sampling(options.policy(), self.tag_id, params)

    async def _decode(
        self,
        prompt: Any,
        params: Any,
        request_id: str,
        options: SafetyOptions,
        reports: list[SafetyReport],
        kwargs: Any,
    ) -> AsyncGenerator[Any, None]:
        """Yield the outputs of the engine's own decoding, under the logits processor."""
        client_logprobs, may_stop = params.logprobs, options.policy().ends_texts
        # A grammar masks the tag before P(tag) could be measured.
        measures = self._can_measure and params.structured_outputs is None
        # The frontend ends texts at stop strings, so that the engine does not send their totals.
        per_token = measures and bool(client_logprobs is not None or params.stop)
        if per_token:
            params.logprobs = (client_logprobs or 0) + 1
        if self.tag_id is not None:
            params.extra_args = {
                MODE_ARG: options.mode,
                THRESHOLD_ARG: options.threshold,
                PROMPT_ARG: options.prompt_threshold,
                REPORT_ARG: measures,
            }
            if may_stop:  # the processor forces the tag, and the engine stops at it
                params.stop_token_ids = sorted({*(params.stop_token_ids or ()), self.tag_id})
        async with aclosing(self._engine_generate(prompt, params, request_id, **kwargs)) as outputs:
            async for output in outputs:
                for choice in output.outputs:
                    if per_token:
                        self._measure(choice, reports[choice.index], client_logprobs)
                    elif choice.finish_reason:
                        choice.stop_reason, totals = take_totals(choice.stop_reason)
                        if totals is not None:
                            reports[choice.index].set_totals(totals)
                    if may_stop and choice.finish_reason == "stop" and choice.stop_reason == self.tag_id:
                        self._mark_stopped(choice, reports[choice.index])
                yield output

    def _measure(self, choice: Any, report: SafetyReport, client_logprobs: int | None) -> None:
        """Record P(tag) of each token, and remove log-probabilities that the client did not request."""
        steps = choice.logprobs or []
        report.add([self._p_tag(step) for step in steps])
        if client_logprobs is None:
            choice.logprobs = choice.cumulative_logprob = None
            return
        for step, token in zip(steps, choice.token_ids, strict=False):
            tag = step.get(self.tag_id)
            if tag is None or token == self.tag_id:
                continue
            likelier = sum(e.logprob > tag.logprob for other, e in step.items() if other != self.tag_id)
            if likelier >= client_logprobs:
                del step[self.tag_id]

    def _p_tag(self, step: Any) -> float | None:
        entry = step.get(self.tag_id)
        return None if entry is None else min(math.exp(entry.logprob), 1.0)

    def _mark_stopped(self, choice: Any, report: SafetyReport) -> None:
        choice.finish_reason, choice.stop_reason = "content_filter", None
        # The text contains the tag if the client requested special tokens and stop strings in it.
        choice.text = choice.text.removesuffix(self.tag) + self._settings["refusal"]
        report.stopped = True

    async def _search(
        self,
        prompt: Any,
        params: Any,
        request_id: str,
        options: SafetyOptions,
        reports: list[SafetyReport],
        kwargs: Any,
    ) -> AsyncGenerator[Any, None]:
        """Yield the outputs of a search, which takes the place of the engine's own decoding."""
        client = self._client
        assert self.tag_id is not None
        fill_generation_defaults(client, params)
        # The last look-ahead is one position behind the answer.
        room = client.model_config.max_model_len - len(prompt["prompt_token_ids"]) - 1
        length = min(params.max_tokens or room, room)
        if length < 1:
            raise VLLMValidationError("the prompt leaves no room for an answer; shorten it.")
        number = options.num_searches(params.n)
        words = self._words if options.drop_by == "word" else None
        searches = [options.search(params, self.tag_id, length, i, words) for i in range(number)]
        if params.n > (beams := sum(search.settings.max_results() for search in searches)):
            raise VLLMValidationError(
                f"n={params.n} answers need as many beams, and this search has at most {beams}; "
                "ask for fewer answers, or for a larger beam_size or num_candidates."
            )
        run = SearchRun(
            self._engine_generate,
            client.renderer.tokenizer,
            prompt,
            params,
            options,
            refusal=self._settings["refusal"],
            on_step=self._metrics.count_step,
        )
        with self._metrics.count_searches(number):
            # Clients may send the same request id twice, but the name of a search must be unique.
            name = f"{request_id}-{uuid.uuid4().hex}"
            async with aclosing(run.outputs(searches, reports, request_id, name, **kwargs)) as outputs:
                async for output in outputs:
                    yield output

    async def _count(
        self, stream: AsyncGenerator[Any, None], options: SafetyOptions, reports: list[SafetyReport]
    ) -> AsyncGenerator[Any, None]:
        """Yield `stream`, and count each of its answers once, however the request ends."""
        outcomes: dict[int, str] = {}
        outcome_of_others = "cancelled"
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    for choice in output.outputs:
                        if choice.finish_reason:
                            outcomes[choice.index] = choice.finish_reason
                    yield output
            outcome_of_others = "error"
        except UserError as error:  # vLLM's streams make an HTTP 500 of any error that is not its own
            outcome_of_others = "error"
            raise VLLMValidationError(str(error)) from error
        except Exception:
            outcome_of_others = "error"
            raise
        finally:
            for index, report in enumerate(reports):
                outcome = outcomes.get(index, outcome_of_others)
                self._metrics.count_answer(options.mode, outcome, report.highest)
