"""What stands between the OpenAI layer and the engine: every request passes `Guard.generate`.

All endpoints call `AsyncLLM.generate`. The guard in its place sets the processor's mode, refuses
prompts that hold the tag, turns a stop at the tag into finish_reason "content_filter" and notes
P(tag) from the log-probabilities that the engine returns.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any

from vllm.exceptions import VLLMValidationError

from safety_ray.decode.processor import MODE_ARG, THRESHOLD_ARG, Safety, check_sampling, requested
from safety_ray.errors import UserError

KEY_ARG = "safety_report"


class LogprobGate:
    """Keeps measured requests and requests with log-probabilities of their own out of one batch.

    vLLM's sampler has one log-probability table per step: where one request of the batch asks for
    given tokens (as measuring P(tag) does), the others' top ones are lost.
    """

    def __init__(self) -> None:
        self._measured = self._own = 0
        self._idle = asyncio.Event()  # no measured request is under way
        self._idle.set()

    @asynccontextmanager
    async def enter(self, own: bool) -> AsyncIterator[bool]:
        """Wait if need be; gives whether this request may be measured."""
        measured = not own and not self._own
        self._own += own
        self._measured += measured
        if measured:
            self._idle.clear()
        try:
            if own:
                await self._idle.wait()  # no other one is measured from now on
            yield measured
        finally:
            self._own -= own
            self._measured -= measured
            if not self._measured:
                self._idle.set()


class Guard:
    """Wraps an engine's `generate`; `reports` holds what happened, by the key a request carries."""

    def __init__(self, generate: Any, settings: dict[str, Any], logprobs_mode: str) -> None:
        self._generate, self._settings = generate, settings
        self.tag_id = int(settings["tag_id"])
        self.default = Safety(settings["mode"], settings["threshold"])
        self.reports: dict[str, list[dict[str, Any]]] = {}
        self._gate = LogprobGate()
        self._can_measure = settings["report"] and logprobs_mode == "raw_logprobs"

    def safety(self, values: dict[str, Any] | None) -> Safety:
        """What a request with these extra arguments asks for; UserError where it may not."""
        safety = requested(values, self.default)
        if safety.mode == "off" and not self._settings["allow_off"]:
            raise UserError("this endpoint does not allow safety mode off: use mask or stop.")
        return safety

    def generate(self, prompt: Any, params: Any, request_id: str, **more: Any) -> AsyncIterator[Any]:
        """As AsyncLLM.generate. Raises VLLMValidationError (HTTP 400) for what the guard refuses."""
        ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
        if ids is None or self.tag_id in ids:
            raise VLLMValidationError("the prompt holds the harmfulness tag, or is not made of token ids.")
        values = dict(params.extra_args or {})
        key = values.pop(KEY_ARG, "")
        try:
            safety = self.safety(values)
            check_sampling(safety, self.tag_id, params)
        except UserError as error:
            raise VLLMValidationError(str(error)) from error
        params = copy.copy(params)
        params.extra_args = {**values, MODE_ARG: safety.mode, THRESHOLD_ARG: safety.threshold}
        if safety.mode == "stop":  # the processor forces the tag, and the engine stops at it
            params.stop_token_ids = sorted({*(params.stop_token_ids or ()), self.tag_id})
        notes: list[dict[str, Any]] = [
            {"mode": safety.mode, "threshold": None, "p_tag": None, "stopped": False} for _ in range(params.n)
        ]
        for note in notes if safety.mode == "stop" else ():
            note["threshold"] = safety.threshold
        self.reports.get(key, []).extend(notes)
        return self._run(prompt, params, request_id, safety, notes, more)

    async def _run(
        self,
        prompt: Any,
        params: Any,
        request_id: str,
        safety: Safety,
        notes: list[Any],
        more: dict[str, Any],
    ) -> AsyncIterator[Any]:
        own = params.logprobs is not None or params.logprob_token_ids is not None
        wanted = own or (safety.mode != "off" and self._can_measure)
        # The engine's generator is closed before the gate is left: a client may go away at any time.
        async with self._gate.enter(own) if wanted else nullcontext(False) as measured:
            if measured:
                params.logprob_token_ids = [self.tag_id]
            async with aclosing(self._generate(prompt, params, request_id, **more)) as outputs:
                async for output in outputs:
                    if measured:
                        self._measure(output, notes)
                    yield self._settle(output, safety, notes)

    def _measure(self, output: Any, notes: list[dict[str, Any]]) -> None:
        for choice in output.outputs:
            steps = [step[self.tag_id].logprob for step in choice.logprobs or () if self.tag_id in step]
            if steps:
                highest = min(math.exp(max(steps)), 1.0)
                notes[choice.index]["p_tag"] = max(notes[choice.index]["p_tag"] or 0.0, highest)
            choice.logprobs = choice.cumulative_logprob = None  # the client did not ask for them

    def _settle(self, output: Any, safety: Safety, notes: list[dict[str, Any]]) -> Any:
        for choice in output.outputs:
            if safety.mode == "stop" and choice.finish_reason == "stop" and choice.stop_reason == self.tag_id:
                choice.finish_reason, choice.stop_reason = "content_filter", None
                # A client may have asked for special tokens and stops in the text.
                choice.text = choice.text.removesuffix(self._settings["tag"]) + self._settings["refusal"]
                note = notes[choice.index]
                note["stopped"] = True
                if note["p_tag"] is None and choice.logprobs:  # the highest is the one that stopped it
                    note["p_tag"] = math.exp(choice.logprobs[-1][self.tag_id].logprob)
        return output
