"""The P(tag) of a whole text: the first, the highest and the mean of its tokens.

The engine core adds the values up and sends them with the end of a text (vllm_scheduler.py), since vLLM's
frontend would spend a list, a dictionary and a detokenization per token on log-probabilities.
"""

from __future__ import annotations

import json
import math
from dataclasses import astuple, dataclass

_START = '{"p_tag_totals": '


@dataclass(slots=True)
class PTagTotals:
    """P(tag) of the tokens of a text so far."""

    first: float = 0.0
    highest: float = 0.0
    total: float = 0.0
    number: int = 0

    def add(self, p_tag: float) -> None:
        if not self.number:
            self.first = p_tag
        self.highest = max(self.highest, p_tag)
        self.total += p_tag
        self.number += 1

    def add_log(self, log_p_tag: float) -> None:
        self.add(min(math.exp(log_p_tag), 1.0))

    @property
    def mean(self) -> float:
        return self.total / self.number

    def in_stop_reason(self, stop_reason: int | str | None) -> str:
        """Return a stop reason that contains the totals beside the engine's own `stop_reason`."""
        return f"{_START}{json.dumps(astuple(self))}, {json.dumps({'stop_reason': stop_reason})[1:]}"


def take_totals(stop_reason: int | str | None) -> tuple[int | str | None, PTagTotals | None]:
    """Return the engine's own stop reason, and the totals that `in_stop_reason` has put beside it."""
    if not isinstance(stop_reason, str) or not stop_reason.startswith(_START):
        return stop_reason, None
    values = json.loads(stop_reason)
    return values["stop_reason"], PTagTotals(*values["p_tag_totals"])
