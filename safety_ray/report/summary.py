"""The card's main numbers as rows of text, for page, figure, README and console.

First the documents kept, rewritten and lost, then harm before and after.
"""

from __future__ import annotations

from typing import Any

from safety_ray.report.formatting import (
    format_change,
    format_count,
    format_interval,
    format_number,
    format_part,
    format_percent,
    format_share,
)
from safety_ray.report.interval import FEW

OUTCOMES = {
    "kept": "kept unchanged",
    "rewritten": "rewritten",
    "lost": "lost (no accepted text)",
}
MEASURES = {
    "ngrams_per_million": "harmful n-grams per million words",
    "share_score_0": "documents of score 0",
    "share_score_4_5": "documents of score 4 or 5",
}


def outcome_rows(card: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return label, documents and words of each outcome; of all documents if nothing was rewritten."""
    parts = card["outcomes"]
    whole = parts["all"]
    rows = [
        (label, format_part(parts[name], whole, "documents"), format_part(parts[name], whole, "words"))
        for name, label in OUTCOMES.items()
        if name in parts
    ]
    if not rows:
        return [("scored, not rewritten", format_count(whole["documents"]), format_count(whole["words"]))]
    rewritten, after = parts["rewritten"], card["slices"]["after"]
    texts, words = format_count(rewritten["texts"]), format_count(rewritten["text_words"])
    all_words = format_count(after["words"])
    if after["documents"] >= FEW and whole["words"]:
        all_words += f" ({format_percent(after['words'] / whole['words'])} of before)"
    return [
        *rows,
        ("rewritten texts", texts, words),
        ("kept and rewritten texts", format_count(after["documents"]), all_words),
    ]


def measure_rows(card: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return each measure with its values before, and after and the change if there are rewritten texts."""
    rows = []
    for name, label in MEASURES.items():
        pair = card["headline"][name]
        mixes = [mix for mix in ("before", "after") if mix in card["slices"]]
        cells = [format_measure(name, pair[mix]) for mix in mixes]
        rows.append((label, [*cells, format_change(pair["change"])] if len(mixes) == 2 else cells))
    return rows


def format_measure(name: str, value: dict[str, float] | None) -> str:
    """Format a rate with its interval, and a share with its interval if it rests on few documents."""
    if name != "ngrams_per_million" or value is None:
        return format_share(value)
    return f"{format_number(value['value'])} ({format_interval(value)})"


def console(card: dict[str, Any]) -> str:
    """Return both tables for a terminal."""
    outcomes = [["", "documents", "words"], *map(list, outcome_rows(card))]
    rows = [[label, *cells] for label, cells in measure_rows(card)]
    both = "after" in card["slices"]
    measures = [["", "before", "after", "change"] if both else ["", "before"], *rows]
    return f"{_columns(outcomes)}\n\n{_columns(measures)}\n\n95% intervals in brackets"


def _columns(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
