"""What an answer says of itself: the field `safety` of each choice.

mode, threshold     what was done, and mode stop's threshold
p_tag, p_tag_mean   the highest and the mean P(tag) of the answer's tokens: how likely the model
                    found the harmfulness tag in the place where the token stands
prompt_p_tag        the same right after the prompt, which is the first token's place
stopped             whether the text was ended because of it
p_tags              each token's, where log-probabilities are asked for; in a stream, of the
                    tokens of each event
dropped             mode safebeam and sample with `explain`: what was dropped in each step
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from serve.safety import Asked


@dataclass(slots=True)
class Report:
    """One choice's report while its answer is made."""

    asked: Asked
    per_token: bool  # the request asks for log-probabilities
    p_tags: list[float | None] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    prompt_p_tag: float | None = None
    stopped: bool = False
    told: int = 0  # tokens whose P(tag) stood in an event already

    def add(self, p_tags: list[float | None]) -> None:
        if not self.p_tags and p_tags:
            self.prompt_p_tag = p_tags[0]
        self.p_tags += p_tags

    @property
    def known(self) -> list[float]:
        """P(tag) of the tokens, or of the prompt alone where it was refused."""
        return [p for p in self.p_tags or [self.prompt_p_tag] if p is not None]

    def whole(self) -> dict[str, Any]:
        """For an answer that is given at once."""
        more: dict[str, Any] = {"p_tags": self.p_tags} if self.per_token else {}
        return {**self.summary(), **more, **self._dropped()}

    def part(self, tokens: int) -> dict[str, Any]:
        """For an event of a stream in which so many tokens come."""
        start, self.told = self.told, self.told + tokens
        more: dict[str, Any] = {"p_tags": self.p_tags[start : self.told]} if self.per_token else {}
        return {**more, **self._dropped()}

    def summary(self) -> dict[str, Any]:
        known = self.known
        return {
            "mode": self.asked.mode,
            "threshold": self.asked.threshold if self.asked.mode == "stop" else None,
            "p_tag": max(known) if known else None,
            "p_tag_mean": sum(known) / len(known) if known else None,
            "prompt_p_tag": self.prompt_p_tag,
            "stopped": self.stopped,
        }

    def _dropped(self) -> dict[str, Any]:
        found, self.dropped = self.dropped, []
        return {"dropped": found} if self.asked.explain else {}


def in_answer(answer: Any, reports: list[Report]) -> Any:
    """A whole answer of the OpenAI layer, each choice with its report."""
    for choice in getattr(answer, "choices", ()):
        choice.safety = reports[choice.index].whole()
    return answer


def in_event(event: str, reports: list[Report]) -> str:
    """A server-sent event, each choice in it with what is to be told now."""
    ends = '"finish_reason":"' in event
    if not ends and not any(report.per_token or report.asked.explain for report in reports):
        return event
    if not event.startswith("data: {"):
        return event
    chunk = json.loads(event.removeprefix("data: "))
    for choice in chunk.get("choices", ()):
        report = reports[choice["index"]]
        told = report.part(_tokens(choice.get("logprobs")))
        if choice.get("finish_reason"):
            told |= report.summary()
        if told:
            choice["safety"] = told
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _tokens(logprobs: dict[str, Any] | None) -> int:
    """Tokens in the log-probabilities of a completion's or a chat's event."""
    if not logprobs:
        return 0
    return len(logprobs.get("tokens") or logprobs.get("content") or ())
