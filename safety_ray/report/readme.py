"""Render the card as a Hugging Face dataset card: YAML front matter and Markdown."""

from __future__ import annotations

import re
from typing import Any

import yaml

from safety_ray.core import markdown
from safety_ray.report.formatting import (
    compare_rates,
    format_interval,
    format_number,
)
from safety_ray.report.interval import FEW
from safety_ray.report.summary import measure_rows, outcome_rows

_SIZE_CATEGORIES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")),
    *((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B")),
    *((10**11, "10B<n<100B"), (10**12, "100B<n<1T")),
)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|$~!&])")


def render_readme(card: dict[str, Any], language: str, license: str) -> str:
    """Return README.md for the data that `card` measures."""
    front_matter = {
        "pretty_name": card["title"],
        "language": [language],
        "license": license,
        "task_categories": ["text-generation"],
        "size_categories": [_size_category(card["slices"])],
        "tags": ["safety-pretraining", "data-safety-report-card", "arxiv:2504.16980"],
    }
    method, both = card["method"], "after" in card["slices"]
    descriptions = {
        **({"Before, after": method["mixes"]} if both else {}),
        "Words": method["words"],
        "N-grams": method["lists"],
        "Matching": method["matching"],
        "Intervals": method["intervals"],
        "Data": ", ".join(f"{name} `{fingerprint}`" for name, fingerprint in card["inputs"].items()),
    }
    bold = (
        " A change in bold: the two intervals are disjoint. There is no change in percent with fewer than "
        f"{FEW} occurrences before or after."
        if both
        else ""
    )
    parts = [
        "---\n" + yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True) + "---",
        f"# {_escape(card['title'])}",
        "A Data Safety Report Card ([Safety Pretraining](https://arxiv.org/abs/2504.16980), section 3): the "
        "distribution of the documents over six levels of harm, and the frequency of harmful n-grams of "
        f"{len(card['categories'])} categories. `card.html` is the whole card as a web page, and `card.json` "
        "has all numbers.",
        "## Documents kept, rewritten and lost" if both else "## Documents",
        _table(["", "documents", "words"], [list(row) for row in outcome_rows(card)]),
        "![Scores and harmful n-grams](card.png)",
        "## Harm",
        _table(
            ["", "before", "after", "change"] if both else ["", ""],
            [[label, *cells] for label, cells in measure_rows(card)],
        ),
        "## Harmful n-grams per million words",
        _rates(card, both),
        f"95% intervals in brackets.{bold}",
        "## Limitations",
        "\n".join(f"- {limit}" for limit in method["limits"]),
        "## Method",
        "\n".join(f"- **{name}**: {text}" for name, text in descriptions.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _rates(card: dict[str, Any], both: bool) -> str:
    mixes = [card["slices"][name] for name in ("before", "after") if name in card["slices"]]
    rates_of = {name: [mix["categories"][name] for mix in mixes] for name in card["categories"]}
    rates_of["**all n-grams**"] = [mix["all"] for mix in mixes]
    rows = []
    for name, rates in rates_of.items():
        cells = [f"{format_number(r and r['per_million'])} ({format_interval(r)})" for r in rates]
        if both:
            change, disjoint = compare_rates(*rates)
            cells.append(f"**{change}**" if disjoint else change)
        rows.append([name, *cells])
    return _table(["category", "before", "after", "change"] if both else ["category", "rate"], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(markdown.table(header, rows))


def _size_category(slices: dict[str, Any]) -> str:
    total = slices.get("after", slices["before"])["documents"]
    return next((name for limit, name in _SIZE_CATEGORIES if total < limit), "n>1T")


def _escape(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)
