"""The card in the form of a Hugging Face dataset card: yaml front matter, then Markdown."""

from __future__ import annotations

import re
from typing import Any

import yaml

from safety_ray.report.wording import between, big, change, compare, number, percent

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MORE = ((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"))
_MOST = ((10**11, "10B<n<100B"), (10**12, "100B<n<1T"))
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|$~!&])")


def write_readme(card: dict[str, Any], language: str, license: str) -> str:
    """The text of README.md for the data that `card` measured."""
    front = {
        "pretty_name": card["title"],
        "language": [language],
        "license": license,
        "task_categories": ["text-generation"],
        "size_categories": [_size(card["headline"]["documents"])],
        "tags": ["safety-pretraining", "data-safety-report-card", "arxiv:2504.16980"],
    }
    method, both = card["method"], "after" in card["slices"]
    parts = [
        "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---",
        f"# {_escape(card['title'])}",
        "A Data Safety Report Card ([Safety Pretraining](https://arxiv.org/abs/2504.16980), section 3): "
        "how the documents spread over six levels of harm, and how often harmful n-grams of "
        f"{len(card['categories'])} categories occur. `card.html` is the whole card as a page, "
        "`card.json` holds every number.",
        "![Scores and harmful n-grams](card.png)",
        "## In short",
        _headline(card["headline"], both),
        "## Harmful n-grams per million words",
        _rates(card, both),
        "In brackets: 95% intervals." + (" A change in bold: the two intervals lie apart." if both else ""),
        "## What this cannot show",
        "\n".join(f"- {limit}" for limit in method["limits"]),
        "## How it was measured",
        "\n".join(
            f"- **{name}**: {text}"
            for name, text in (
                *((("Before, after", method["mixes"]),) if both else ()),
                ("Words", method["words"]),
                ("N-grams", method["lists"]),
                ("Matching", method["matching"]),
                ("Intervals", method["intervals"]),
                ("Data", ", ".join(f"{name} `{mark}`" for name, mark in card["inputs"].items())),
            )
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _headline(headline: dict[str, Any], both: bool) -> str:
    rows = (
        ("documents", "documents", big),
        ("words", "words", big),
        ("harmful n-grams per million words", "ngrams_per_million", number),
        ("documents of score 0", "share_score_0", percent),
        ("documents of score 4 or 5", "share_score_4_5", percent),
    )
    head = "| | before | after | change |\n|---|---:|---:|---:|" if both else "| | |\n|---|---:|"
    lines = [head]
    for label, key, text in rows:
        pair = headline[key]
        cells = [text(pair["before"]), *((text(pair["after"]), change(pair["change"])) if both else ())]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rates(card: dict[str, Any], both: bool) -> str:
    mixes = [card["slices"][name] for name in ("before", "after") if name in card["slices"]]
    head = "| category | before | after | change |\n|---|---:|---:|---:|"
    head = head if both else "| category | rate |\n|---|---:|"
    rows = [(name, [mix["categories"][name] for mix in mixes]) for name in card["categories"]]
    lines = [head]
    for name, rates in [*rows, ("**all n-grams**", [mix["all"] for mix in mixes])]:
        cells = [f"{number(r and r['per_million'])} ({between(r)})" for r in rates]
        if both:
            text, apart = compare(rates[0], rates[1])
            cells.append(f"**{text}**" if apart else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _size(documents: dict[str, Any]) -> str:
    total = documents["before"] if documents["after"] is None else documents["after"]
    return next((name for most, name in (*_SIZES, *_MORE, *_MOST) if total < most), "n>1T")


def _escape(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)
