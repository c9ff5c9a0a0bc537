"""A search as the engine's own output: what the OpenAI layer then streams, formats and counts like any other.

What all beams agree on is given out as soon as they do: no answer that the search can still find
begins otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.utils.async_utils import merge_async_iterators
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from safety_ray.decode.safebeam import Beam, Search
from safety_ray.decode.vllm_search import drive
from serve.report import Report
from serve.safety import Asked


class Searching:
    """Runs the searches of one request; `params` are vLLM's, with the model's ends of text filled in."""

    def __init__(
        self,
        generate: Callable[..., AsyncGenerator[Any, None]],
        tokenizer: Any,
        prompt: dict[str, Any],
        params: Any,
        asked: Asked,
        *,
        refusal: str,
        on_step: Callable[[], None],
    ) -> None:
        self._generate, self._tokenizer, self._params = generate, tokenizer, params
        self._ids: list[int] = prompt["prompt_token_ids"]
        self._prompt, self._asked = prompt, asked
        self._refusal, self._on_step = refusal, on_step

    async def outputs(
        self, searches: list[Search], reports: list[Report], request_id: str, **more: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """vLLM's outputs of the request: parts where it streams, else one at the end.

        There is one search for all answers, or one for each.
        """
        streams = [
            self._answers(
                search, reports[i:] if len(searches) == 1 else [reports[i]], f"{request_id}-{i}", more
            )
            for i, search in enumerate(searches)
        ]
        delta = self._params.output_kind == RequestOutputKind.DELTA
        left, whole = len(reports), []
        async with aclosing(merge_async_iterators(*streams)) as parts:
            async for place, part in parts:
                part.index += place
                left -= part.finish_reason is not None
                if delta:
                    yield self._output(request_id, [part], not left)
                else:
                    whole.append(part)
        if not delta:
            yield self._output(request_id, sorted(whole, key=lambda part: part.index), True)

    def _output(self, request_id: str, parts: list[CompletionOutput], finished: bool) -> RequestOutput:
        return RequestOutput(
            request_id=request_id,
            prompt=self._prompt.get("prompt"),
            prompt_token_ids=self._ids,
            prompt_logprobs=None,
            outputs=parts,
            finished=finished,
        )

    async def _answers(
        self, search: Search, reports: list[Report], name: str, more: dict[str, Any]
    ) -> AsyncGenerator[CompletionOutput, None]:
        delta = self._params.output_kind == RequestOutputKind.DELTA
        first = _Text(self, reports[0], 0)
        salt = self._prompt.get("cache_salt")
        async with aclosing(drive(self._generate, self._ids, search, name, cache_salt=salt, **more)) as steps:
            async for _ in steps:
                self._on_step()
                if not first.length and self._refused(search, reports[0]):
                    for index, report in enumerate(reports):
                        report.stopped, report.prompt_p_tag = True, reports[0].prompt_p_tag
                        yield CompletionOutput(
                            index, self._refusal, [], 0.0, [], finish_reason="content_filter"
                        )
                    return
                if self._asked.explain:
                    reports[0].dropped += self._explained(search)
                if first.take(search.ranked()[0], len(search.agreed())):  # a stop string: all answers hold it
                    break
                if delta and (part := first.part(None)) is not None:
                    yield part
        best = search.ranked()
        for index, report in enumerate(reports):
            text = first if index == 0 else _Text(self, report, index)
            beam = best[min(index, len(best) - 1)]
            if not text.stopped_at:
                text.take(beam, len(beam.token_ids))
            yield text.end(beam)

    def _refused(self, search: Search, report: Report) -> bool:
        """Whether the prompt itself is refused; known after the first step."""
        beam = search.ranked()[0]
        root = beam.path()[0] if beam.parent else beam
        report.prompt_p_tag = root.expansion.p_tag
        return self._asked.prompt_threshold < 1 and root.expansion.p_tag >= self._asked.prompt_threshold

    def _explained(self, search: Search) -> list[dict[str, Any]]:
        kept = max((beam.p_tag[-1] for beam in search.live if beam.p_tag), default=None)
        return [
            {
                "step": len(beam.token_ids),
                "text": self._tokenizer.decode(list(beam.token_ids), skip_special_tokens=True),
                "p_tag": beam.p_tag[-1],
                "log_prob": beam.log_prob,
                "kept_p_tag": kept,
            }
            for beam in search.dropped
        ]


class _Text:
    """One answer's text as it grows, with what is told of its tokens."""

    def __init__(self, searching: Searching, report: Report, index: int) -> None:
        self._params, self._report, self._index = searching._params, report, index
        request = SimpleNamespace(
            request_id="", prompt_token_ids=searching._ids, prompt_embeds=None, sampling_params=self._params
        )
        self._detokenizer = IncrementalDetokenizer.from_new_request(searching._tokenizer, request)
        self._delta = self._params.output_kind == RequestOutputKind.DELTA
        self._new: list[int] = []
        self._logprobs: list[dict[int, Logprob]] = []
        self.length = 0
        self.log_prob = 0.0
        self.stopped_at: str | None = None

    def take(self, beam: Beam, length: int) -> str | None:
        """Take the tokens of `beam` up to `length`; the stop string that ended the text, if one did."""
        path = beam.path()
        while self.length < length and self.stopped_at is None:
            token, parent = beam.token_ids[self.length], path[self.length]
            child = path[self.length + 1] if self.length + 1 < len(path) else beam
            ends = beam.ended and self.length + 1 == len(beam.token_ids)
            self.stopped_at = self._detokenizer.update([token], ends)
            self.length, self.log_prob = self.length + 1, child.log_prob
            self._new.append(token)
            self._report.add([parent.expansion.p_tag])
            if self._params.logprobs is not None:
                self._logprobs.append(self._alternatives(token, child.log_prob - parent.log_prob, parent))
        return self.stopped_at

    def _alternatives(self, token: int, log_prob: float, parent: Beam) -> dict[int, Logprob]:
        """The token's log-probability and those of the most likely ones, as the engine gives them."""
        e = parent.expansion
        places = {other: place for place, other in enumerate(e.token_ids, 1)}
        found = {token: Logprob(log_prob, places.get(token), None)}
        for other, value in zip(e.token_ids[: self._params.logprobs], e.log_probs, strict=False):
            found.setdefault(other, Logprob(value, places[other], None))
        return found

    def part(
        self, finish_reason: str | None, stop_reason: int | str | None = None
    ) -> CompletionOutput | None:
        """What came since the last part; None where nothing did."""
        text = self._detokenizer.get_next_output_text(finish_reason is not None, self._delta)
        if not self._new and not text and finish_reason is None:
            return None
        tokens, self._new = self._new, []
        logprobs, self._logprobs = self._logprobs, []
        return CompletionOutput(
            self._index,
            text,
            tokens,
            self.log_prob,
            logprobs if self._params.logprobs is not None else None,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
        )

    def end(self, beam: Beam) -> CompletionOutput:
        """The last part, with the reason why there is no more."""
        last = beam.token_ids[-1] if beam.ended and self.stopped_at is None else None
        reason = last if last in (self._params.stop_token_ids or ()) else None
        finish = "stop" if self.stopped_at is not None or beam.ended else "length"
        part = self.part(finish, self.stopped_at if self.stopped_at is not None else reason)
        assert part is not None
        return part
