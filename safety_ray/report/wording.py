"""Numbers as a person writes them: rates, shares, changes and counts, the same on page and figure."""

from __future__ import annotations

NONE = "–"


def number(value: float | None) -> str:
    """A rate or count as a person writes it: three digits or so, thousands with commas."""
    if value is None:
        return NONE
    if 0 < value < 0.01:
        return "<0.01"
    if value == 0 or value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A share in percent; what is not zero never reads as zero."""
    if value is None:
        return NONE
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{value:.0%}" if value in (0, 1) or 0.1 <= value < 0.995 else f"{value:.1%}"


def change(value: float | None) -> str:
    """A relative change with its sign."""
    if value is None:
        return NONE
    if abs(value) < 0.0005:
        return "±0%"
    size = f"{abs(value):,.0%}" if abs(value) >= 0.1 else f"{abs(value):.1%}"
    return ("−" if value < 0 else "+") + size


def between(rate: dict[str, float] | None) -> str:
    """The interval of a rate."""
    return NONE if rate is None else f"{number(rate['low'])}–{number(rate['high'])}"


def big(value: int | None) -> str:
    """A count of documents or words, shortened from a hundred thousand on."""
    if value is None:
        return NONE
    if value < 100_000:
        return f"{value:,}"
    size, unit = next(
        (s, u) for s, u in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= s * 0.9995
    )
    scaled = value / size
    return f"{scaled:,.0f}{unit}" if scaled >= 99.95 else f"{scaled:.3g}{unit}"


def compare(before: dict[str, float] | None, after: dict[str, float] | None) -> tuple[str, bool]:
    """The change from one rate to another, and whether their intervals lie apart."""
    if before is None or after is None:
        return NONE, False
    apart = before["high"] < after["low"] or after["high"] < before["low"]
    if before["per_million"] == 0:
        return (NONE if after["per_million"] == 0 else "new"), apart
    return change(after["per_million"] / before["per_million"] - 1), apart
