"""Run the searches of one request, and return them as engine outputs, which the OpenAI layer then formats.

A stream contains the tokens that all beams have in common as soon as they do: every possible result of the
search begins with them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from safety_ray.compat.vllm_frontend import incremental_detokenizer, merge_async_iterators
from safety_ray.decode.safebeam import Beam, Search
from safety_ray.decode.vllm_search import drive
from serve.options import SafetyOptions
from serve.report import SafetyReport

_DESCRIBED = 32
"""Last tokens of a dropped candidate in its report: the whole text of each would grow with its square"""


class SearchRun:
    """The searches of one request; `params` are vLLM's SamplingParams with the model's end-of-text tokens."""

    def __init__(
        self,
        generate: Callable[..., AsyncGenerator[Any, None]],
        tokenizer: Any,
        prompt: dict[str, Any],
        params: Any,
        options: SafetyOptions,
        *,
        refusal: str,
        on_step: Callable[[], None],
    ) -> None:
        self._generate, self.tokenizer, self.params = generate, tokenizer, params
        self.prompt_ids: list[int] = prompt["prompt_token_ids"]
        self._prompt, self._options = prompt, options
        self._refusal, self._on_step = refusal, on_step

    async def outputs(
        self, searches: list[Search], reports: list[SafetyReport], request_id: str, name: str, **kwargs: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yield vLLM's outputs of the request: several if it streams, else one at the end.

        There is one report per answer, and either one search for all answers or one search per answer. `name`
        must be unique among running searches.
        """
        streams = [
            self._answers(search, reports[i:] if len(searches) == 1 else [reports[i]], f"{name}-{i}", kwargs)
            for i, search in enumerate(searches)
        ]
        delta = self.params.output_kind == RequestOutputKind.DELTA
        unfinished, complete = len(reports), []
        async with aclosing(merge_async_iterators(*streams)) as chunks:
            async for search_index, chunk in chunks:
                chunk.index += search_index
                unfinished -= chunk.finish_reason is not None
                if delta:
                    yield self._output(request_id, [chunk], not unfinished)
                else:
                    complete.append(chunk)
        if not delta:
            yield self._output(request_id, sorted(complete, key=lambda chunk: chunk.index), True)

    def _output(self, request_id: str, chunks: list[CompletionOutput], finished: bool) -> RequestOutput:
        return RequestOutput(
            request_id=request_id,
            prompt=self._prompt.get("prompt"),
            prompt_token_ids=self.prompt_ids,
            prompt_logprobs=None,
            outputs=chunks,
            finished=finished,
        )

    async def _answers(
        self, search: Search, reports: list[SafetyReport], name: str, kwargs: dict[str, Any]
    ) -> AsyncGenerator[CompletionOutput, None]:
        """Yield the answers of one search, of which the first one streams."""
        delta = self.params.output_kind == RequestOutputKind.DELTA
        first = _AnswerText(self, reports[0], 0)
        salt = self._prompt.get("cache_salt")
        steps_of_search = drive(self._generate, self.prompt_ids, search, name, cache_salt=salt, **kwargs)
        async with aclosing(steps_of_search) as steps:
            async for _ in steps:
                self._on_step()
                if not first.length and self._refuses_prompt(search, reports[0]):
                    for index, report in enumerate(reports):
                        report.stopped, report.prompt_p_tag = True, reports[0].prompt_p_tag
                        yield CompletionOutput(
                            index, self._refusal, [], 0.0, [], finish_reason="content_filter"
                        )
                    return
                if self._options.explain:
                    reports[0].dropped += self._describe_dropped(search)
                # A stop string in the common prefix ends all answers.
                if first.extend(search.ranked()[0], len(search.common_prefix())):
                    break
                if delta and (chunk := first.chunk(None)) is not None:
                    yield chunk
        beams = search.ranked()[:1] if len(reports) == 1 else self._with_different_texts(search.ranked())
        if len(beams) < len(reports):
            raise VLLMValidationError(
                f"the search has found {len(beams)} different answers, but n is {len(reports)}; "
                "ask for fewer answers, or for a larger beam_size or num_candidates."
            )
        for index, (report, beam) in enumerate(zip(reports, beams, strict=False)):
            text = first if index == 0 else _AnswerText(self, report, index)
            if not text.stop_string:
                text.extend(beam, len(beam.token_ids))
            yield text.last_chunk(beam)

    def _with_different_texts(self, beams: list[Beam]) -> list[Beam]:
        """Return the best beam of each text.

        Beams with the same text differ in special tokens, or after a stop string that they have in common.
        """
        best: dict[str, Beam] = {}
        for beam in beams:
            text = _AnswerText(self, SafetyReport(self._options, per_token=False), 0)
            text.extend(beam, len(beam.token_ids))
            best.setdefault(text.last_chunk(beam).text, beam)
        return list(best.values())

    def _refuses_prompt(self, search: Search, report: SafetyReport) -> bool:
        """Return whether P(tag) after the prompt reaches the threshold; call it after the first step."""
        beam = search.ranked()[0]
        root = beam.path()[0] if beam.parent else beam
        report.prompt_p_tag = root.expansion.p_tag
        return self._options.prompt_threshold < 1 and root.expansion.p_tag >= self._options.prompt_threshold

    def _describe_dropped(self, search: Search) -> list[dict[str, Any]]:
        kept_p_tag = max((beam.p_tag[-1] for beam in search.live if beam.p_tag), default=None)
        return [
            {
                "step": len(beam.token_ids),
                "text": self.tokenizer.decode(list(beam.token_ids[-_DESCRIBED:]), skip_special_tokens=True),
                "p_tag": beam.p_tag[-1],
                "log_prob": beam.log_prob,
                "kept_p_tag": kept_p_tag,
            }
            for beam in search.dropped
        ]


class _AnswerText:
    """The growing text of one answer, with its log-probabilities and P(tag)."""

    def __init__(self, run: SearchRun, report: SafetyReport, index: int) -> None:
        self._params, self._report, self._index = run.params, report, index
        self._detokenizer = incremental_detokenizer(run.tokenizer, run.prompt_ids, run.params)
        self._delta = self._params.output_kind == RequestOutputKind.DELTA
        self._new_ids: list[int] = []
        self._logprobs: list[dict[int, Logprob]] = []
        self.length = 0
        self.log_prob = 0.0
        self.stop_string: str | None = None

    def extend(self, beam: Beam, length: int) -> str | None:
        """Append the tokens of `beam` up to `length`; return the stop string that ends the text, if any."""
        path = beam.path()
        while self.length < length and self.stop_string is None:
            token, parent = beam.token_ids[self.length], path[self.length]
            child = path[self.length + 1] if self.length + 1 < len(path) else beam
            ends = beam.ended and self.length + 1 == len(beam.token_ids)
            self.stop_string = self._detokenizer.update([token], ends)
            self.length, self.log_prob = self.length + 1, child.log_prob
            self._new_ids.append(token)
            self._report.add([parent.expansion.p_tag])
            if self._params.logprobs is not None:
                self._logprobs.append(self._top_logprobs(token, child.log_prob - parent.log_prob, parent))
        return self.stop_string

    def _top_logprobs(self, token: int, log_prob: float, parent: Beam) -> dict[int, Logprob]:
        """Return the token's log-probability and those of the most likely tokens, in the engine's format."""
        e = parent.expansion
        ranks = {other: rank for rank, other in enumerate(e.token_ids, 1)}
        logprobs = {token: Logprob(log_prob, ranks.get(token), None)}
        for other, value in zip(e.token_ids[: self._params.logprobs], e.log_probs, strict=False):
            logprobs.setdefault(other, Logprob(value, ranks[other], None))
        return logprobs

    def chunk(
        self, finish_reason: str | None, stop_reason: int | str | None = None
    ) -> CompletionOutput | None:
        """Return what was added since the last chunk, or None if nothing was."""
        text = self._detokenizer.get_next_output_text(finish_reason is not None, self._delta)
        if not self._new_ids and not text and finish_reason is None:
            return None
        token_ids, self._new_ids = self._new_ids, []
        logprobs, self._logprobs = self._logprobs, []
        return CompletionOutput(
            self._index,
            text,
            token_ids,
            self.log_prob,
            logprobs if self._params.logprobs is not None else None,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
        )

    def last_chunk(self, beam: Beam) -> CompletionOutput:
        """Return the last chunk, with the finish reason of `beam`."""
        last = beam.token_ids[-1] if beam.ended and self.stop_string is None else None
        stop_token = last if last in (self._params.stop_token_ids or ()) else None
        finish_reason = "stop" if self.stop_string is not None or beam.ended else "length"
        chunk = self.chunk(finish_reason, self.stop_string if self.stop_string is not None else stop_token)
        assert chunk is not None
        return chunk
