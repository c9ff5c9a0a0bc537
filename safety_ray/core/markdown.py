"""Tables and numbers of the Markdown pages."""

from __future__ import annotations

from collections.abc import Sequence

MISSING = "–"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Return the lines of a Markdown table; the first `texts` columns are texts, the others numbers."""
    marks = ["---"] * texts + ["---:"] * (len(head) - texts)
    lines = ([cell.replace("|", r"\|") for cell in cells] for cells in (head, marks, *rows))
    return [f"| {' | '.join(cells)} |" for cells in lines]


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with `digits` decimal places."""
    return MISSING if value is None else f"{value:.{digits}f}"


def percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    """Format a share, with its interval if given."""
    if value is None:
        return MISSING
    if interval is None:
        return f"{100 * value:.1f} %"
    return f"{100 * value:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def points(value: float, interval: Sequence[float]) -> str:
    """Format a difference of shares, in percentage points, with its interval."""
    return f"{100 * value:+.1f} ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})".replace("-", "−")
