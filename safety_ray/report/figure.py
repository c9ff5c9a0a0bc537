"""Plot the card's two charts below the outcome of its documents, for papers and dataset pages.

The colors are vermillion and blue of Okabe and Ito's palette, which people with any common color blindness
can distinguish. "before" always comes first.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from safety_ray.core import drawing
from safety_ray.core.drawing import BLUE, INK, SOFT, VERMILLION
from safety_ray.core.records import SCORES
from safety_ray.report.card import estimate_share
from safety_ray.report.formatting import format_bar, format_number
from safety_ray.report.summary import outcome_rows

COLORS = {"before": VERMILLION, "after": BLUE}


def plot_card(card: dict[str, Any]) -> bytes:
    """Return a PNG: documents kept, rewritten and lost; scores on the left, categories on the right."""
    figure = drawing.figure(13, 7, dpi=150)
    rows = outcome_rows(card)
    axes: dict[str, Axes] = figure.subplot_mosaic(
        [["lead", "lead"], ["scores", "categories"]],
        width_ratios=[1, 1.35], height_ratios=[0.045 * (len(rows) + 1), 1],
    )  # fmt: skip
    _write_outcomes(axes["lead"], rows)
    left, right = axes["scores"], axes["categories"]
    mixes = {name: card["slices"][name] for name in ("before", "after") if name in card["slices"]}
    _plot_scores(left, mixes)
    _plot_categories(right, mixes, card["categories"])
    # The title is a user's text, so dollar signs in it do not begin mathematics.
    figure.suptitle(card["title"], fontsize=16, fontweight="bold", color=INK, parse_math=False)
    return drawing.png(figure)


def _write_outcomes(axes: Axes, rows: list[tuple[str, str, str]]) -> None:
    axes.axis("off")
    for line, cells in enumerate([("", "documents", "words"), *rows]):
        for x, cell, align in zip((0.30, 0.50, 0.72), cells, ("right", "right", "right"), strict=True):
            axes.text(
                x, 1 - (line + 0.5) / (len(rows) + 1), cell, ha=align, va="center", fontsize=11.5,
                color=INK if line else SOFT,
            )  # fmt: skip


def _plot_scores(axes: Axes, mixes: dict[str, Any]) -> None:
    width = 0.8 / len(mixes)
    for index, (name, mix) in enumerate(mixes.items()):
        shares = [estimate_share(mix, k, k) for k in range(SCORES)]
        positions = [k + (index - (len(mixes) - 1) / 2) * width for k in range(SCORES)]
        percents = [100 * share["value"] if share else 0.0 for share in shares]
        bars = axes.bar(positions, percents, width * 0.94, color=COLORS[name], label=name)
        axes.bar_label(bars, [format_bar(share) for share in shares], padding=2, fontsize=9, color=INK)
    axes.set_title("Levels of harm", loc="left", fontsize=12.5, color=INK)
    axes.set_xlabel("score: 0 safe … 5 highly unsafe")
    axes.set_ylabel("documents (%; n: their number, if small)")
    axes.margins(y=0.1)
    if len(mixes) > 1:
        axes.legend(frameon=False)
    drawing.style_bars(axes, "y")


def _plot_categories(axes: Axes, mixes: dict[str, Any], categories: list[str]) -> None:
    height = 0.8 / len(mixes)
    longest = max(
        (rate["per_million"] for mix in mixes.values() for rate in mix["categories"].values() if rate),
        default=0,
    )
    for index, (name, mix) in enumerate(mixes.items()):
        rates = [mix["categories"][c] or {"per_million": 0.0, "low": 0.0, "high": 0.0} for c in categories]
        values = [r["per_million"] for r in rates]
        positions = [k + (index - (len(mixes) - 1) / 2) * height for k in range(len(categories))]
        errors = [[r["per_million"] - r["low"] for r in rates], [r["high"] - r["per_million"] for r in rates]]
        axes.barh(positions, values, height * 0.94, color=COLORS[name], label=name)
        axes.errorbar(values, positions, xerr=errors, capsize=1.5, **drawing.ERROR_BARS)
        for y, rate in zip(positions, rates, strict=True):
            axes.annotate(
                format_number(rate["per_million"]),
                (min(rate["high"], longest * 1.6), y),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=SOFT,
                annotation_clip=False,
            )
    axes.set_yticks(range(len(categories)), categories)
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.6 or 1)
    axes.set_title("Harmful n-grams by category", loc="left", fontsize=12.5, color=INK)
    axes.set_xlabel("occurrences per million words, with 95% intervals")
    drawing.style_bars(axes, "x")
