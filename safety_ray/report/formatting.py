"""Format numbers for readers: rates, shares, changes and counts, the same in every form of the card."""

from __future__ import annotations

from safety_ray.core.markdown import MISSING
from safety_ray.report.interval import FEW

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def format_number(value: float | None) -> str:
    """Format a rate or count with about three digits, and with commas between thousands."""
    if value is None:
        return MISSING
    if 0 < value < 0.01:
        return "<0.01"
    if value == 0 or value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def format_percent(value: float | None) -> str:
    """Format a share in percent. A share above zero is never shown as 0%, and one below one never as 100%."""
    if value is None:
        return MISSING
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{value:.0%}" if value == 0 or value >= 1 or 0.1 <= value < 0.995 else f"{value:.1%}"


def format_change(value: float | None) -> str:
    """Format a relative change with its sign."""
    if value is None:
        return MISSING
    if abs(value) < 0.0005:
        return "±0%"
    size = f"{abs(value):,.0%}" if abs(value) >= 0.1 else f"{abs(value):.1%}"
    return ("−" if value < 0 else "+") + size


def format_interval(rate: dict[str, float] | None) -> str:
    """Format the confidence interval of a rate."""
    return MISSING if rate is None else f"{format_number(rate['low'])}–{format_number(rate['high'])}"


def format_count(value: int | None) -> str:
    """Format a count of documents or words, with a unit from a hundred thousand on."""
    if value is None:
        return MISSING
    if value < 100_000:
        return f"{value:,}"
    size, unit = next((size, unit) for size, unit in _UNITS if value >= size * 0.9995)
    scaled = value / size
    return f"{scaled:,.0f}{unit}" if scaled >= 99.95 else f"{scaled:.3g}{unit}"


def format_part(part: dict[str, int], whole: dict[str, int], unit: str, name: str = "") -> str:
    """Format the documents or words (`unit`) of a part; in percent as well if it has enough documents.

    `name` follows the number of all.
    """
    of = f"{format_count(part[unit])} of {format_count(whole[unit])}{' ' * bool(name)}{name}"
    if part["documents"] < FEW or not whole[unit]:
        return of
    return f"{of} ({format_percent(part[unit] / whole[unit])})"


def format_share(share: dict[str, float] | None) -> str:
    """Format a share in percent, with its interval if it rests on few documents."""
    if share is None:
        return MISSING
    value = format_percent(share["value"])
    return f"{value} ({format_ends(share)})" if share["count"] < FEW else value


def format_bar(share: dict[str, float] | None) -> str:
    """Format a share for the end of a bar: in percent, or the number of documents if they are few."""
    if share is None or not share["count"]:
        return ""
    if share["count"] < FEW:
        return f"n={share['count']}"
    if 0.995 <= share["value"] < 1:
        return ">99%"
    return "<1%" if share["value"] < 0.005 else f"{share['value']:.0%}"


def format_ends(share: dict[str, float] | None) -> str:
    """Format the confidence interval of a share."""
    if share is None:
        return MISSING
    return f"{format_percent(share['low'])}–{format_percent(share['high'])}"


def compare_rates(before: dict[str, float] | None, after: dict[str, float] | None) -> tuple[str, bool]:
    """Return the change from one rate to another, and whether their intervals are disjoint.

    With few occurrences before or after, the change is a direction if they are disjoint, and else missing.
    """
    if before is None or after is None:
        return MISSING, False
    disjoint = before["high"] < after["low"] or after["high"] < before["low"]
    if min(before["count"], after["count"]) < FEW:
        direction = "lower" if after["per_million"] < before["per_million"] else "higher"
        return (direction if disjoint else MISSING), disjoint
    return format_change(after["per_million"] / before["per_million"] - 1), disjoint
