"""Token counts of all scoring actors, summed by one Ray actor that imports no model library."""

from __future__ import annotations

from typing import Any


class TokenTotals:
    """Sums of tokens and computed positions. Work repeated after a failure is counted again."""

    def __init__(self) -> None:
        self.tokens = self.positions = 0

    def add(self, tokens: int, positions: int) -> None:
        self.tokens, self.positions = self.tokens + tokens, self.positions + positions

    def record(self) -> dict[str, Any]:
        """Return the totals and the share of positions that are padding."""
        padding = 1 - self.tokens / self.positions if self.positions else 0.0
        return {"read": self.tokens, "computed": self.positions, "padding": round(padding, 4)}
