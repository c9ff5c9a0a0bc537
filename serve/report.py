"""The field `safety` of each choice in an answer.

mode, threshold     mode of the request, and the threshold of mode stop
p_tag, p_tag_mean   highest and mean P(tag) of the answer's tokens: the probability of the harmfulness tag at
                    the position of the token
prompt_p_tag        P(tag) right after the prompt, which is the position of the first token
stopped             whether the safety mode ended the text
p_tags              P(tag) of each generated token, if the request has `logprobs`; in a stream, each event's
dropped             with `explain`: the candidates that each step of a search dropped
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from safety_ray.decode.p_tag_totals import PTagTotals
from serve.options import SafetyOptions


@dataclass(slots=True)
class SafetyReport:
    """The report of one choice while its answer is generated."""

    options: SafetyOptions
    per_token: bool  # whether the request has `logprobs`
    echoed: int = 0  # tokens of the prompt at the beginning of the first event
    prompt_only: bool = False  # whether the answer is the prompt, and has no generated token
    p_tags: list[float | None] = field(default_factory=list)  # if per_token
    totals: PTagTotals = field(default_factory=PTagTotals)  # of the tokens whose P(tag) was measured
    dropped: list[dict[str, Any]] = field(default_factory=list)
    prompt_p_tag: float | None = None
    stopped: bool = False
    sent: int = 0  # number of tokens whose P(tag) has been part of an event
    _begun: bool = False

    def add(self, p_tags: list[float | None]) -> None:
        """Accept the P(tag) of new tokens; None if it was not measured."""
        if p_tags and not self._begun:
            self._begun, self.prompt_p_tag = True, p_tags[0]
        if self.prompt_only:
            return
        if self.per_token:
            self.p_tags += p_tags
        for p_tag in p_tags:
            if p_tag is not None:
                self.totals.add(p_tag)

    def set_totals(self, totals: PTagTotals) -> None:
        """Accept the P(tag) of a whole answer, of which `add` has received nothing."""
        self.prompt_p_tag = totals.first if totals.number else None
        if not self.prompt_only:
            self.totals = totals

    @property
    def highest(self) -> float | None:
        """Highest P(tag) of the tokens, or of the prompt if there are none; None: nothing was measured."""
        return self.totals.highest if self.totals.number else self.prompt_p_tag

    def for_answer(self) -> dict[str, Any]:
        """Return the report for an answer that is not streamed."""
        p_tags: dict[str, Any] = {"p_tags": self.p_tags} if self.per_token else {}
        return {**self.summary(), **p_tags, **self._take_dropped()}

    def for_event(self, tokens: int) -> dict[str, Any]:
        """Return the report for the next event of a stream, which has this number of tokens."""
        tokens, self.echoed = max(tokens - self.echoed, 0), max(self.echoed - tokens, 0)
        start, self.sent = self.sent, self.sent + tokens
        p_tags: dict[str, Any] = {"p_tags": self.p_tags[start : self.sent]} if self.per_token else {}
        return {**p_tags, **self._take_dropped()}

    def summary(self) -> dict[str, Any]:
        return {
            "mode": self.options.mode,
            "threshold": self.options.threshold if self.options.mode == "stop" else None,
            "p_tag": self.highest,
            "p_tag_mean": self.totals.mean if self.totals.number else self.prompt_p_tag,
            "prompt_p_tag": self.prompt_p_tag,
            "stopped": self.stopped,
        }

    def _take_dropped(self) -> dict[str, Any]:
        dropped, self.dropped = self.dropped, []
        return {"dropped": dropped} if self.options.explain else {}


def add_reports(item: Any, reports: list[SafetyReport]) -> Any:
    """Add the reports to what the OpenAI layer returns: an answer, an event, or a list of events."""
    if isinstance(item, list):
        return [_add_to_event(event, reports) if isinstance(event, str) else event for event in item]
    return _add_to_event(item, reports) if isinstance(item, str) else _add_to_answer(item, reports)


def _add_to_answer(answer: Any, reports: list[SafetyReport]) -> Any:
    for choice in getattr(answer, "choices", ()):
        choice.safety = reports[choice.index].for_answer()
    return answer


def _add_to_event(event: str, reports: list[SafetyReport]) -> str:
    """Return a server-sent event with what there is to report at this point of the stream."""
    is_last = '"finish_reason":"' in event
    if not is_last and not any(report.per_token or report.options.explain for report in reports):
        return event
    if not event.startswith("data: {"):
        return event
    chunk = json.loads(event.removeprefix("data: "))
    for choice in chunk.get("choices", ()):
        report = reports[choice["index"]]
        content = report.for_event(_num_tokens(choice.get("logprobs")))
        if choice.get("finish_reason"):
            content |= report.summary()
        if content:
            choice["safety"] = content
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _num_tokens(logprobs: dict[str, Any] | None) -> int:
    """Return the number of tokens in the log-probabilities of a completion's or a chat's event."""
    if not logprobs:
        return 0
    return len(logprobs.get("tokens") or logprobs.get("content") or ())
