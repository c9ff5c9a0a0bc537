"""Token counts of all scoring actors, summed by one Ray actor that imports no model library.

The same actor counts starts of batches (see worker_deaths.py), because each actor is a process.
"""

from __future__ import annotations

from typing import Any

from safety_ray.core.worker_deaths import Starts


class TokenTotals(Starts):
    """Sums of tokens and computed positions. Work repeated after a failure is counted again."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = self.positions = 0

    def add(self, tokens: int, positions: int) -> None:
        self.tokens, self.positions = self.tokens + tokens, self.positions + positions

    def record(self) -> dict[str, Any]:
        """Return the totals and the share of positions that are padding."""
        padding = 1 - self.tokens / self.positions if self.positions else 0.0
        return {"read": self.tokens, "computed": self.positions, "padding": round(padding, 4)}
