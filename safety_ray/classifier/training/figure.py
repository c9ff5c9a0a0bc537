"""Plots of a classifier's metrics: confusion, reliability, and AUROC by source."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from safety_ray.core import drawing
from safety_ray.core.drawing import BLUE, INK, SOFT, VERMILLION
from safety_ray.core.records import SCORES


def plot(metrics: dict[str, Any]) -> bytes:
    """Return a PNG of `metrics`, the content of metrics.json."""
    panels = [_confusion] if metrics["confusion"] else []
    panels += [_reliability] if any(metrics["calibration"]["after"].values()) else []
    panels += [_sources] if any(row["auroc"] is not None for row in metrics["sources"].values()) else []
    figure = drawing.figure(5.4 * max(len(panels), 1), 5)
    for position, panel in enumerate(panels, start=1):
        panel(figure.add_subplot(1, len(panels), position), metrics)
    return drawing.png(figure)


def _confusion(axes: Axes, metrics: dict[str, Any]) -> None:
    counts = np.array(metrics["confusion"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for y in range(SCORES):
        for x in range(SCORES):
            axes.text(
                x, y, f"{counts[y, x]:,}", ha="center", va="center", fontsize=9,
                color="white" if shares[y, x] > 0.5 else INK,
            )  # fmt: skip
    axes.set_xlabel("predicted score")
    axes.set_ylabel("label")
    axes.set_title(f"Held-out texts, macro F1 {metrics['macro_f1'] or 0:.2f}", loc="left", color=INK)


def _reliability(axes: Axes, metrics: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=":")
    calibration = metrics["calibration"]
    for when, color in (("before", VERMILLION), ("after", BLUE)):
        for threshold, style in (("1", "--"), ("3", "-")):
            curve = calibration[when][threshold]
            if curve:
                label = f"score ≥ {threshold}, {when}: ECE {curve['ece']:.3f}"
                points = curve["predicted"], curve["true"]
                axes.plot(*points, style, color=color, marker="o", markersize=4, label=label)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share of unsafe texts")
    axes.set_title(f"Reliability, temperature {calibration['temperature']:.2f}", loc="left", color=INK)
    axes.legend(frameon=False, fontsize=8)
    drawing.open_frame(axes)


def _sources(axes: Axes, metrics: dict[str, Any]) -> None:
    unseen = metrics.get("leave_one_out") or {}
    names = [name for name, row in metrics["sources"].items() if row["auroc"] is not None]
    bars = [("source in training data", BLUE, [metrics["sources"][name]["auroc"] for name in names])]
    if unseen:
        values = [(unseen.get(name) or {}).get("auroc") or 0 for name in names]
        bars.append(("source left out", VERMILLION, values))
    height = 0.8 / len(bars)
    for group, (label, color, values) in enumerate(bars):
        y = [k + (group - (len(bars) - 1) / 2) * height for k in range(len(names))]
        container = axes.barh(y, values, height * 0.94, color=color, label=label)
        axes.bar_label(container, [f"{v:.2f}" if v else "" for v in values], padding=2, fontsize=8, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0.4, 1.08)
    axes.axvline(0.5, color=SOFT, linewidth=0.8, linestyle=":")
    axes.set_xlabel("AUROC, mean over the thresholds that the labels define")
    axes.set_title("Sources", loc="left", color=INK)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    drawing.open_frame(axes)
