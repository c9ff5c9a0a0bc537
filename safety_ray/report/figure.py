"""The card's two charts as one picture, for papers and dataset pages.

Vermillion and blue of Okabe and Ito's palette, which every common colour blindness leaves apart;
"before" always stands first.
"""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from safety_ray.core.records import SCORES
from safety_ray.report.card import share
from safety_ray.report.wording import number

COLORS = {"before": "#D55E00", "after": "#0072B2"}
_INK, _SOFT, _LINE = "#1c1b19", "#6a665f", "#e4e0d8"


def draw(card: dict[str, Any]) -> bytes:
    """A PNG: scores on the left, categories with 95% intervals on the right."""
    figure = Figure(figsize=(13, 6.4), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    mixes = {name: card["slices"][name] for name in ("before", "after") if name in card["slices"]}
    _scores(left, mixes)
    _categories(right, mixes, card["categories"])
    # A title is a user's text: no part of it is mathematics.
    figure.suptitle(card["title"], fontsize=16, fontweight="bold", color=_INK, parse_math=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _scores(axes: Axes, mixes: dict[str, Any]) -> None:
    width = 0.8 / len(mixes)
    for place, (name, one) in enumerate(mixes.items()):
        shares = [100 * (share(one, k, k) or 0.0) for k in range(SCORES)]
        at = [k + (place - (len(mixes) - 1) / 2) * width for k in range(SCORES)]
        bars = axes.bar(at, shares, width * 0.94, color=COLORS[name], label=name)
        labels = ["" if s == 0 else "<1" if s < 0.5 else f"{s:.0f}" for s in shares]
        axes.bar_label(bars, labels, padding=2, fontsize=9, color=_INK)
    axes.set_title("Levels of harm", loc="left", fontsize=12.5, color=_INK)
    axes.set_xlabel("score: 0 safe … 5 highly unsafe")
    axes.set_ylabel("documents (%)")
    axes.margins(y=0.1)
    if len(mixes) > 1:
        axes.legend(frameon=False)
    _clean(axes, "y")


def _categories(axes: Axes, mixes: dict[str, Any], categories: list[str]) -> None:
    height = 0.8 / len(mixes)
    longest = max(
        (r["per_million"] for o in mixes.values() for r in o["categories"].values() if r), default=0
    )
    for place, (name, one) in enumerate(mixes.items()):
        rates = [one["categories"][c] or {"per_million": 0.0, "low": 0.0, "high": 0.0} for c in categories]
        values = [r["per_million"] for r in rates]
        at = [k + (place - (len(mixes) - 1) / 2) * height for k in range(len(categories))]
        ends = [[r["per_million"] - r["low"] for r in rates], [r["high"] - r["per_million"] for r in rates]]
        axes.barh(at, values, height * 0.94, color=COLORS[name], label=name)
        axes.errorbar(values, at, xerr=ends, fmt="none", ecolor=_INK, elinewidth=0.9, capsize=1.5, alpha=0.7)
        for y, rate in zip(at, rates, strict=True):
            axes.annotate(
                number(rate["per_million"]),
                (min(rate["high"], longest * 1.6), y),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=_SOFT,
                annotation_clip=False,
            )
    axes.set_yticks(range(len(categories)), categories)
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.6 or 1)
    axes.set_title("Harmful n-grams by category", loc="left", fontsize=12.5, color=_INK)
    axes.set_xlabel("occurrences per million words, with 95% intervals")
    _clean(axes, "x")


def _clean(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_SOFT)
    axes.grid(axis="x" if grid == "x" else "y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, labelsize=9.5)
