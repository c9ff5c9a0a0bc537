"""Render the report card as one self-contained web page from the template `card.html`.

This module converts the card's numbers to what the template prints: formatted numbers, and positions on
charts in percent of their width, so that the page fits any screen.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2

from safety_ray.core.markdown import MISSING
from safety_ray.core.records import RECIPES, SCORES
from safety_ray.report.card import BANDS, estimate_share, scores_of
from safety_ray.report.formatting import (
    compare_rates,
    format_bar,
    format_change,
    format_count,
    format_ends,
    format_interval,
    format_number,
    format_part,
    format_percent,
    format_share,
)
from safety_ray.report.interval import FEW
from safety_ray.report.summary import MEASURES

SHORT_LEVELS = ("safe", "minimally", "slightly", "moderately", "clearly", "highly")
_REACH = 1.6
"""Width of a chart relative to its longest bar. Longer intervals are truncated there."""


def render_page(card: dict[str, Any]) -> str:
    """Return the page. Every value is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((resources.files(__package__) / "card.html").read_text("utf-8"))
    slices, both = card["slices"], "after" in card["slices"]
    mixes = [("before", slices["before"])] + ([("after", slices["after"])] if both else [])
    scores = [(k, slices[f"original-{k}"]) for k in range(SCORES)]
    return template.render(
        card=card,
        both=both,
        few=FEW,
        outcomes=_outcome_tiles(card["outcomes"], card["method"]["kept"]),
        tiles=_tiles(card["headline"], both),
        distribution=_distribution(mixes),
        levels=SHORT_LEVELS,
        categories=_bars(
            [(name, [(mix, s["categories"][name]) for mix, s in mixes]) for name in card["categories"]]
        ),
        by_score=_bars(
            [
                (
                    f"{k} · {SHORT_LEVELS[k]}",
                    [("before", original["all"])]
                    + ([("after", slices[f"rewritten-from-{k}"]["all"])] if both and k else []),
                )
                for k, original in scores
            ]
        ),
        table=_table(card, slices),
        score_table=_heat(card, [(f"score {k}", original) for k, original in scores], shares=False),
        recipe_table=_heat(card, _recipe_columns(slices)) if both else None,
        top=card["ngrams"],
    )


def _outcome_tiles(parts: dict[str, dict[str, int]], kept: str) -> list[dict[str, str]]:
    """Return tiles that say how many documents and words were kept, rewritten and lost."""
    whole = parts["all"]
    if "kept" not in parts:
        facts = ((name, format_count(whole[name])) for name in ("documents", "words"))
        return [{"value": value, "label": f"{name} scored", "note": ""} for name, value in facts]
    rewritten = parts["rewritten"]
    texts, words = format_count(rewritten["texts"]), format_count(rewritten["text_words"])
    labels = {
        "kept": ("kept unchanged", f"They have {kept}."),
        "rewritten": ("rewritten", f"They became {texts} texts of {words} words."),
        "lost": ("lost", "They have no accepted rewritten text."),
    }
    tiles = []
    for name, (label, more) in labels.items():
        value, rest = format_part(parts[name], whole, "documents", "documents").split(" ", 1)
        note = f"{format_part(parts[name], whole, 'words', 'words')}. {more}"
        tiles.append({"value": value, "label": f"{label}, {rest}", "note": note})
    return tiles


def _tiles(headline: dict[str, Any], both: bool) -> list[dict[str, str]]:
    """Return tiles with harm before and after. A percentage of few hits has its interval below."""
    tiles = []
    for key, label in MEASURES.items():
        before, after, change = (headline[key][name] for name in ("before", "after", "change"))
        is_rate = key == "ngrams_per_million"
        ends = format_interval if is_rate else format_ends
        values = [before, after] if both else [before]
        shown = [
            MISSING if v is None else (format_number if is_rate else format_percent)(v["value"])
            for v in values
        ]
        notes = [format_change(change)] if is_rate and change is not None else []
        if is_rate or any(v and v["count"] < FEW for v in values):
            between = f"{ends(before)} before, {ends(after)} after" if both else ends(before)
            notes.append(f"95% interval{'s' * both} {between}")
        tiles.append({"label": label, "before": shown[0], "after": shown[-1], "note": "; ".join(notes)})
    return tiles


def _distribution(mixes: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the columns of shares for each score, in percent of the chart's width and height."""
    shares = [(name, [estimate_share(mix, k, k) for k in range(SCORES)]) for name, mix in mixes]
    highest = max(share["value"] if share else 0.0 for _, values in shares for share in values)
    steps = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    top = next(step for step in steps if step >= highest - 1e-9)
    width = 5.6 if len(mixes) == 2 else 8.0
    columns = []
    for index, (name, values) in enumerate(shares):
        for k, share in enumerate(values):
            left = (k + 0.5) / SCORES * 100 + (index - len(mixes) / 2) * (width + 0.5)
            height = (share["value"] if share else 0.0) / top * 100
            columns.append(
                {
                    "name": name,
                    "x": round(left, 2),
                    "middle": round(left + width / 2, 2),
                    "width": width,
                    "y": round(100 - height, 2),
                    "height": round(height, 2),
                    "text": format_bar(share),
                    "title": f"{name}: {format_share(share)} of documents have score {k}",
                }
            )
    lines = [{"y": round(100 - i * 25, 2), "text": format_percent(top * i / 4)} for i in range(5)]
    centers = [round((k + 0.5) / SCORES * 100, 2) for k in range(SCORES)]
    return {"columns": columns, "lines": lines, "centers": centers}


def _bars(rows: list[tuple[str, list[tuple[str, dict[str, float] | None]]]]) -> list[dict[str, Any]]:
    """Return horizontal bars with intervals. All rows have the same scale."""
    rates = [rate for _, pairs in rows for _, rate in pairs if rate]
    longest = max((rate["per_million"] for rate in rates), default=0.0)
    reach = max((rate["high"] for rate in rates), default=1.0) * 1.02
    top = min(reach, longest * _REACH) or reach

    def position(value: float) -> float:
        return round(min(value / top, 1.0) * 100, 2)

    return [
        {
            "label": label,
            "bars": [
                {
                    "name": name,
                    "truncated": rate is not None and rate["high"] > top,
                    "width": position(rate["per_million"]) if rate else 0,
                    "low": position(rate["low"]) if rate else 0,
                    "high": position(rate["high"]) if rate else 0,
                    "text": format_number(rate["per_million"]) if rate else MISSING,
                    "title": f"{name}: {_describe(rate)}",
                }
                for name, rate in pairs
            ],
        }
        for label, pairs in rows
    ]


def _describe(rate: dict[str, float] | None) -> str:
    if rate is None:
        return "no words"
    return f"{format_number(rate['per_million'])} per million words ({format_interval(rate)})"


def _table(card: dict[str, Any], slices: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in [*card["categories"], None]:
        rates = [
            slices[mix]["all"] if name is None else slices[mix]["categories"][name]
            for mix in ("before", "after")
            if mix in slices
        ]
        change, disjoint = compare_rates(*rates) if len(rates) == 2 else (MISSING, False)
        rows.append(
            {
                "name": name or "all n-grams",
                "total": name is None,
                "rates": [
                    {"value": format_number(r and r["per_million"]), "interval": format_interval(r)}
                    for r in rates
                ],
                "change": change,
                "disjoint": disjoint,
            }
        )
    return rows


def _recipe_columns(slices: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the original documents of each band, followed by the recipes whose sources begin in it."""
    columns = []
    for name, (low, high) in BANDS.items():
        columns.append((f"originals {low}–{high}", slices[name]))
        columns += [
            (recipe, slices[recipe])
            for recipe in RECIPES
            if low <= min(scores_of(slices, recipe), default=SCORES) <= high
        ]
    return [(label, slice_) for label, slice_ in columns if slice_["documents"]]


def _heat(
    card: dict[str, Any], columns: list[tuple[str, dict[str, Any]]], shares: bool = True
) -> dict[str, Any]:
    """Return a table of rates by category and slice; `shade` (0-1) grows with the root of the rate."""
    rates = [[slice_["categories"][name] for _, slice_ in columns] for name in card["categories"]]
    maximum = max((rate["per_million"] for row in rates for rate in row if rate), default=0.0) or 1.0

    def cell(rate: dict[str, float] | None, shaded: bool = True) -> dict[str, Any]:
        shade = (rate["per_million"] / maximum) ** 0.5 if rate and shaded else 0.0
        return {
            "value": format_number(rate["per_million"] if rate else None),
            "interval": format_interval(rate) if rate else "",
            "shade": round(shade, 3),
        }

    facts = [
        ("documents", [format_count(slice_["documents"]) for _, slice_ in columns]),
        ("words", [format_count(slice_["words"]) for _, slice_ in columns]),
        ("of score 0", [format_share(estimate_share(slice_, 0, 0)) for _, slice_ in columns]),
        ("of score 4–5", [format_share(estimate_share(slice_, 4, 5)) for _, slice_ in columns]),
    ]
    return {
        "columns": [label for label, _ in columns],
        "facts": facts if shares else facts[:2],
        "rows": [
            (name, [cell(rate) for rate in row]) for name, row in zip(card["categories"], rates, strict=True)
        ],
        "total": [cell(slice_["all"], shaded=False) for _, slice_ in columns],
    }
