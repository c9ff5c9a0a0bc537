"""Bar chart of the rates of an evaluation: one bar per prompt set and decoder, with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from safety_ray.core import drawing
from safety_ray.core.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, SOFT, VERMILLION
from safety_ray.evaluate.prompt_sets import KINDS

_COLORS = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY)
_HATCHES = ("", "///", "...")
_LABELS = {"harm": "harmful answers (%)", "refusal": "refused (%)"}


def plot(values: dict[str, Any]) -> bytes:
    """Return a PNG of `values`, the content of metrics.json: the first judge's rates, one panel per kind."""
    judge = next(iter(values["judges"]))
    lines = [line for line in values["rates"] if line["judge"] == judge and line["rate"] is not None]
    kinds = [kind for kind in KINDS if any(line["kind"] == kind for line in lines)]
    decoders = list(dict.fromkeys(line["decoder"] for line in lines))
    sets = {k: list(dict.fromkeys(x["prompt_set"] for x in lines if x["kind"] == k)) for k in kinds}
    widths = [max(len(sets[kind]), 1) for kind in kinds] or [1]
    figure = drawing.figure(2.6 + 1.5 * sum(widths), 4.6)
    panels = figure.subplots(1, len(widths), width_ratios=widths, sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=False):
        of_kind = [line for line in lines if line["kind"] == kind]
        plot_bars(axes, of_kind, x="prompt_set", places=sets[kind], bar="decoder", bars=decoders)
        axes.set_title(f"{kind} prompts", loc="left", fontsize=11.5, color=INK)
    panels[0].set_ylabel(_LABELS[values["judges"][judge]["detects"]], color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    suffix = "" if values["judges"][judge]["trusted"] else " (not trusted, see README.md)"
    figure.suptitle(f"judge: {judge}{suffix}", fontsize=10, color=SOFT, parse_math=False)
    return drawing.png(figure)


def percentages(lines: Sequence[dict[str, Any]]) -> tuple[list[float], list[list[float]]]:
    """Return the rates of `lines` in percent, and the lengths of their error bars below and above."""
    shares = [100 * line["rate"] for line in lines]
    below = [share - 100 * line["interval"][0] for share, line in zip(shares, lines, strict=True)]
    above = [100 * line["interval"][1] - share for share, line in zip(shares, lines, strict=True)]
    return shares, [below, above]


def plot_bars(
    axes: Axes, lines: list[dict[str, Any]], *, x: str, places: list[str], bar: str, bars: list[str]
) -> None:
    """Draw the rates of `lines` in percent: a group per value of the key `x`, a bar per value of `bar`."""
    width = 0.8 / max(len(bars), 1)
    for index, name in enumerate(bars):
        chosen = [line for line in lines if line[bar] == name]
        offset = (index - (len(bars) - 1) / 2) * width
        positions = [places.index(line[x]) + offset for line in chosen]
        shares, errors = percentages(chosen)
        repeat, color = divmod(index, len(_COLORS))
        axes.bar(
            positions, shares, width * 0.92, color=_COLORS[color], hatch=_HATCHES[repeat % len(_HATCHES)],
            edgecolor="white", label=name,
        )  # fmt: skip
        axes.errorbar(positions, shares, yerr=errors, capsize=2, **drawing.ERROR_BARS)
    axes.set_xticks(range(len(places)), places, parse_math=False)
    axes.set_ylim(0, 100)
    drawing.style_bars(axes, "y")
