"""The two figures of an ablation: harmful answers by arm and stage, and the effect of Safe Beam Search.

Both show the first judge of harm on harmful prompts, one panel per prompt set, with 95% intervals.
"""

from __future__ import annotations

from typing import Any

from safety_ray.core import drawing
from safety_ray.evaluate.ablation import STAGES
from safety_ray.evaluate.decoders import SAFEBEAM
from safety_ray.evaluate.figure import plot_bars
from safety_ray.evaluate.prompt_sets import HARMFUL

Lines = list[dict[str, Any]]


def plot_arms(values: dict[str, Any]) -> bytes:
    """Return a PNG: one group of bars per arm, one bar per stage, first decoder only."""
    lines = arm_lines(values)
    return _plot(lines, x="arm", bar="stage", bars=[s for s in STAGES.values() if _has(lines, "stage", s)])


def plot_search(values: dict[str, Any]) -> bytes:
    """Return a PNG: one group of bars per model that has the tag, one bar per decoder."""
    lines = search_lines(values)
    return _plot(lines, x="model", bar="decoder", bars=list(dict.fromkeys(line["decoder"] for line in lines)))


def arm_lines(values: dict[str, Any]) -> Lines:
    """Return the rates of the figure of arms: the first decoder, with the title of the stage."""
    lines = _harm(values)
    first = {(x["arm"], x["stage"], x["prompt_set"]): x["decoder"] for x in reversed(lines)}
    return [
        {**x, "stage": STAGES[x["stage"]]}
        for x in lines
        if first[x["arm"], x["stage"], x["prompt_set"]] == x["decoder"]
    ]


def search_lines(values: dict[str, Any]) -> Lines:
    """Return the rates of the models that have an answer by Safe Beam Search, with the name of the model."""
    lines = _harm(values)
    searched = {(x["arm"], x["stage"]) for x in lines if x["decoder"] == SAFEBEAM}
    return [
        {**x, "model": f"{x['arm']}\n{STAGES[x['stage']]}"}
        for x in lines
        if (x["arm"], x["stage"]) in searched
    ]


def _harm(values: dict[str, Any]) -> Lines:
    judge = next((name for name, judge in values["judges"].items() if judge["detects"] == "harm"), None)
    return [
        line
        for line in values["rates"]
        if line["judge"] == judge and line["kind"] == HARMFUL and line["rate"] is not None
    ]


def _has(lines: Lines, key: str, value: str) -> bool:
    return any(line[key] == value for line in lines)


def _plot(lines: Lines, *, x: str, bar: str, bars: list[str]) -> bytes:
    places = list(dict.fromkeys(line[x] for line in lines))
    sets = list(dict.fromkeys(line["prompt_set"] for line in lines)) or [""]
    size = (2.6 + 1.5 * max(len(places), 1), 0.6 + 3.6 * len(sets))
    figure = drawing.figure(*size)
    panels = figure.subplots(len(sets), 1, sharey=True, squeeze=False)[:, 0]
    for axes, prompt_set in zip(panels, sets, strict=True):
        of_set = [line for line in lines if line["prompt_set"] == prompt_set]
        plot_bars(axes, of_set, x=x, places=places, bar=bar, bars=bars)
        axes.set_title(prompt_set or "no model has these answers", loc="left", fontsize=11.5)
        axes.set_ylabel("harmful answers (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    if lines:
        figure.suptitle(f"judge: {lines[0]['judge']}", fontsize=10, parse_math=False)
    return drawing.png(figure)
