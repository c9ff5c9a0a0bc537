"""The report card as one web page: `card.html`, which loads nothing from anywhere.

This file turns the card's numbers into what the template prints: texts of numbers, and places on
charts in percent of their width, so that the page fits any screen.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2

from safety_ray.core.records import SCORES
from safety_ray.report.card import share
from safety_ray.report.tally import RECIPES
from safety_ray.report.wording import NONE, between, big, change, compare, number, percent

SHORT_LEVELS = ("safe", "minimally", "slightly", "moderately", "clearly", "highly")
_CUT = 1.6  # a chart reaches this much beyond its longest bar; intervals that go on are cut there


def render(card: dict[str, Any]) -> str:
    """The page; every value is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((resources.files(__package__) / "card.html").read_text("utf-8"))
    slices, both = card["slices"], "after" in card["slices"]
    mixes = [("before", slices["before"])] + ([("after", slices["after"])] if both else [])
    scores = [(k, slices[f"original-{k}"]) for k in range(SCORES)]
    return template.render(
        card=card,
        both=both,
        tiles=_tiles(card["headline"], slices, both),
        distribution=_distribution(mixes),
        levels=SHORT_LEVELS,
        categories=_bars(
            [(name, [(mix, one["categories"][name]) for mix, one in mixes]) for name in card["categories"]]
        ),
        by_score=_bars(
            [
                (
                    f"{k} · {SHORT_LEVELS[k]}",
                    [("before", one["all"])]
                    + ([("after", slices[f"rewritten-from-{k}"]["all"])] if both and k else []),
                )
                for k, one in scores
            ]
        ),
        table=_table(card, slices),
        score_table=_heat(card, [(f"score {k}", one) for k, one in scores], shares=False),
        recipe_table=_heat(card, _recipe_columns(slices)) if both else None,
        top=card["ngrams"],
    )


def _tiles(headline: dict[str, Any], slices: dict[str, Any], both: bool) -> list[dict[str, str]]:
    rows = (
        ("ngrams_per_million", "harmful n-grams per million words", number),
        ("share_score_0", "of documents are safe (score 0)", percent),
        ("share_score_4_5", "are clearly or highly unsafe (4–5)", percent),
        ("documents", "documents", big),
        ("words", "words", big),
    )
    tiles = []
    for key, label, text in rows:
        pair = headline[key]
        note = ""
        if key == "ngrams_per_million":
            note = f"95% interval {between(slices['before']['all'])}"
            if both:
                note = f"{change(pair['change'])}; 95% intervals {between(slices['before']['all'])} before, "
                note += f"{between(slices['after']['all'])} after"
        tiles.append(
            {
                "label": label,
                "before": text(pair["before"]),
                "after": text(pair["after"]) if both else "",
                "note": note,
            }
        )
    return tiles


def _distribution(mixes: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Columns of shares per score: places in percent of the chart's width and height."""
    shares = [(name, [share(one, k, k) or 0.0 for k in range(SCORES)]) for name, one in mixes]
    steps = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    top = next(step for step in steps if step >= max(max(values) for _, values in shares) - 1e-9)
    width = 5.6 if len(mixes) == 2 else 8.0
    columns = []
    for place, (name, values) in enumerate(shares):
        for k, value in enumerate(values):
            left = (k + 0.5) / SCORES * 100 + (place - len(mixes) / 2) * (width + 0.5)
            height = value / top * 100
            columns.append(
                {
                    "name": name,
                    "x": round(left, 2),
                    "middle": round(left + width / 2, 2),
                    "width": width,
                    "y": round(100 - height, 2),
                    "height": round(height, 2),
                    "text": "" if value == 0 else "<1%" if value < 0.005 else f"{value:.0%}",
                    "title": f"{name}: {percent(value)} of documents have score {k}",
                }
            )
    lines = [{"y": round(100 - i * 25, 2), "text": percent(top * i / 4)} for i in range(5)]
    centers = [round((k + 0.5) / SCORES * 100, 2) for k in range(SCORES)]
    return {"columns": columns, "lines": lines, "centers": centers}


def _bars(rows: list[tuple[str, list[tuple[str, dict[str, float] | None]]]]) -> list[dict[str, Any]]:
    """Horizontal bars with intervals on one scale, which all rows share."""
    rates = [rate for _, pairs in rows for _, rate in pairs if rate]
    longest = max((rate["per_million"] for rate in rates), default=0.0)
    reach = max((rate["high"] for rate in rates), default=1.0) * 1.02
    top = min(reach, longest * _CUT) or reach

    def place(value: float) -> float:
        return round(min(value / top, 1.0) * 100, 2)

    return [
        {
            "label": label,
            "bars": [
                {
                    "name": name,
                    "cut": rate is not None and rate["high"] > top,
                    "width": place(rate["per_million"]) if rate else 0,
                    "low": place(rate["low"]) if rate else 0,
                    "high": place(rate["high"]) if rate else 0,
                    "text": number(rate["per_million"]) if rate else NONE,
                    "title": f"{name}: {number(rate['per_million'])} per million words ({between(rate)})"
                    if rate
                    else f"{name}: no words",
                }
                for name, rate in pairs
            ],
        }
        for label, pairs in rows
    ]


def _table(card: dict[str, Any], slices: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in [*card["categories"], None]:
        rates = [
            slices[mix]["all"] if name is None else slices[mix]["categories"][name]
            for mix in ("before", "after")
            if mix in slices
        ]
        text, apart = compare(rates[0], rates[1]) if len(rates) == 2 else (NONE, False)
        rows.append(
            {
                "name": name or "all n-grams",
                "total": name is None,
                "rates": [{"value": number(r and r["per_million"]), "interval": between(r)} for r in rates],
                "change": text,
                "apart": apart,
            }
        )
    return rows


def _recipe_columns(slices: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    columns = [("originals 1–3", slices["original-1-3"]), ("rephrase", slices["rephrase"])]
    columns += [("originals 4–5", slices["original-4-5"])]
    columns += [(recipe, slices[recipe]) for recipe in RECIPES if recipe != "rephrase"]
    return [(label, one) for label, one in columns if one["documents"]]


def _heat(
    card: dict[str, Any], columns: list[tuple[str, dict[str, Any]]], shares: bool = True
) -> dict[str, Any]:
    """A table of rates per category and slice; `shade` (0-1) grows with the root of the rate."""
    every = [[one["categories"][name] for _, one in columns] for name in card["categories"]]
    most = max((rate["per_million"] for row in every for rate in row if rate), default=0.0) or 1.0

    def cell(rate: dict[str, float] | None, shaded: bool = True) -> dict[str, Any]:
        shade = (rate["per_million"] / most) ** 0.5 if rate and shaded else 0.0
        return {
            "value": number(rate["per_million"] if rate else None),
            "interval": between(rate) if rate else "",
            "shade": round(shade, 3),
        }

    facts = [
        ("documents", [big(one["documents"]) for _, one in columns]),
        ("words", [big(one["words"]) for _, one in columns]),
        ("of score 0", [percent(share(one, 0, 0)) for _, one in columns]),
        ("of score 4–5", [percent(share(one, 4, 5)) for _, one in columns]),
    ]
    return {
        "columns": [label for label, _ in columns],
        "facts": facts if shares else facts[:2],
        "rows": [
            (name, [cell(rate) for rate in row]) for name, row in zip(card["categories"], every, strict=True)
        ],
        "total": [cell(one["all"], shaded=False) for _, one in columns],
    }
