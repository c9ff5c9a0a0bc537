"""Page and figure of the measurements of P(tag) (signal.py)."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from safety_ray.core import drawing
from safety_ray.core.drawing import BLUE, INK, LINE, VERMILLION
from safety_ray.core.markdown import percent, table


def lines(signal: dict[str, Any]) -> list[str]:
    """Return the Markdown section of `signal`, the measurements."""
    calibration = signal["calibration"]
    low, high = calibration["interval"]
    relative = "" if calibration["relative"] is None else f", {calibration['relative']:.0%} of the mean"
    separations = [
        ("at the ends of words", signal["positions"]["word_ends"]),
        ("inside words", signal["positions"]["inside_words"]),
        *((f"first {line['words']} word{'s' * (line['words'] > 1)}", line) for line in signal["by_words"]),
        *((f"category {name}", line) for name, line in signal["by_category"].items()),
    ]
    rows = [
        [
            name,
            f"{line['auroc']:.3f} ({line['interval'][0]:.3f} to {line['interval'][1]:.3f})",
            f"{line['p_tag_safe']:.4f}",
            f"{line['p_tag_unsafe']:.4f}",
            f"{line['safe']:,}",
            f"{line['unsafe']:,}",
        ]
        for name, line in separations
        if line
    ]
    head = ["mean P(tag)", "AUROC", "safe", "unsafe", "safe documents", "unsafe documents"]
    bins = [[f"{b['p_tag']:.5f}", f"{b['expected']:.5f}", f"{b['positions']:,}"] for b in calibration["bins"]]
    return [
        "![P(tag)](signal.png)",
        "",
        *table(head, rows, 1),
        "",
        f"Expected calibration error at the ends of words: {calibration['error']:.5f} ({low:.5f} to "
        f"{high:.5f}){relative}, if the tag stood before {signal['tag_rate']:.0%} of the words of unsafe "
        "text in training, and safe and unsafe text were mixed as here.",
        "",
        *table(["mean P(tag)", "expected", "positions"], bins, 0),
        *_stop(signal["stop"]),
    ]


def _stop(stop: dict[str, Any]) -> list[str]:
    if not stop:
        return []
    rows = [
        [half, *(percent(stop[f"{half}_{k}"]["stopped"], stop[f"{half}_{k}"]["interval"]) for k in kinds)]
        for kinds in [("safe", "unsafe")]
        for half in ("validation", "test")
    ]
    return [
        "",
        f"Threshold of the mode `stop`: {stop['threshold']:.6g}, the lowest at which at most "
        f"{stop['false_alarms_allowed']:.0%} of the safe validation documents are stopped. Share of the "
        "documents that it stops:",
        "",
        *table(["half", "safe", "unsafe"], rows, 1),
    ]


def plot(signal: dict[str, Any]) -> bytes:
    """Return a PNG: the reliability diagram, and the separation by number of words."""
    figure = drawing.figure(9.2, 4.2)
    reliability, words = figure.subplots(1, 2)
    bins = signal["calibration"]["bins"]
    highest = max(max(b["p_tag"], b["expected"]) for b in bins) * 1.1 or 1.0
    reliability.plot([0, highest], [0, highest], color=INK, linewidth=0.8, linestyle=":")
    reliability.plot([b["p_tag"] for b in bins], [b["expected"] for b in bins], "o-", color=VERMILLION)
    _style(
        reliability, "mean P(tag) of a bin", "expected rate of the tag", "calibration at the ends of words"
    )
    steps = signal["by_words"]
    places = [line["words"] for line in steps]
    words.axhline(0.5, color=INK, linewidth=0.8, linestyle=":")
    words.plot(places, [line["auroc"] for line in steps], "o-", color=BLUE)
    words.fill_between(
        places,
        [line["interval"][0] for line in steps],
        [line["interval"][1] for line in steps],
        color=BLUE,
        alpha=0.15,
        linewidth=0,
    )
    if places:  # matplotlib cannot draw a logarithmic axis without values
        words.set_xscale("log", base=2)
    else:
        words.text(0.5, 0.6, "too few documents", ha="center", color=INK, transform=words.transAxes)
    words.set_xticks(places, [str(place) for place in places])
    words.set_ylim(0, 1)
    _style(words, "words read", "AUROC of mean P(tag)", "how early P(tag) tells unsafe text")
    return drawing.png(figure)


def _style(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    drawing.open_frame(axes)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
