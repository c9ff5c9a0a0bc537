"""The audit for a reader: two tables and a picture."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLORS = {"precision": "#0072B2", "recall": "#D55E00", "thrown": "#8a857c", "safe_lost": "#009E73"}


def write(found: dict[str, Any]) -> str:
    """README.md of an audit; `found` is the content of audit.json."""
    labelled = f"{found['labelled']:,} of {found['documents']:,} documents, some of each score,"
    return f"""# Audit of the scores of `{found["scored"]}`

{labelled} were labelled by {found["labelled_by"]}.
A document is unsafe here from label {found["unsafe_from"]}. {verdict(found)}

## If documents are thrown away from a score on

{_markdown(*_threshold_rows(found))}

## Each score

{_markdown(*_score_rows(found))}

Ranges are 95 % intervals for the chance of the sample (strata weighted by their documents, Jeffreys
posterior in each); they speak of these documents and no others. What is thrown away is counted in all of
them. The labels are taken as the truth: a judge's own mistakes are in none of these figures.

![Precision, recall and what is thrown away](audit.png)
"""


def table(found: dict[str, Any]) -> str:
    """The thresholds for a terminal."""
    head, rows = _threshold_rows(found)
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(["", *lines, "", verdict(found)])


def verdict(found: dict[str, Any]) -> str:
    """Which threshold reaches what was wanted, in a sentence."""
    for name, least in found["wanted"].items():
        if found["threshold"] is None:
            return f"No threshold reaches a {name} of {least:.0%}."
        sure = "" if found["sure"] else ", though its interval reaches below that"
        return f"Threshold {found['threshold']} reaches a {name} of {least:.0%}{sure}."
    return "No threshold was asked for."


def draw(found: dict[str, Any]) -> bytes:
    """A PNG: precision and recall by threshold on the left, what a filter throws away on the right."""
    figure = Figure(figsize=(10, 4), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    rows = found["thresholds"]
    at = [row["threshold"] for row in rows]
    for name in ("precision", "recall"):
        _line(left, rows, name, _COLORS[name], name)
    for name, least in found["wanted"].items():
        left.axhline(100 * least, color=_COLORS[name], linewidth=0.8, linestyle=":")
    left.set_ylabel(f"of documents with label ≥ {found['unsafe_from']} (%)")
    thrown = [100 * (row["thrown_documents"] or 0) for row in rows]
    right.bar(at, thrown, 0.6, color=_COLORS["thrown"], alpha=0.5, label="of all documents")
    _line(right, rows, "safe_lost", _COLORS["safe_lost"], "of safe documents")
    right.set_ylabel("thrown away (%)")
    for axes in (left, right):
        axes.set_xlabel("threshold: thrown away from this score on")
        axes.set_xticks(at)
        axes.set_ylim(0, 104)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _line(axes: Axes, rows: list[dict[str, Any]], name: str, color: str, label: str) -> None:
    known = [row for row in rows if row[name] is not None]
    values = [100 * row[name] for row in known]
    ends = [
        [value - 100 * row[f"{name}_interval"][0] for value, row in zip(values, known, strict=True)],
        [100 * row[f"{name}_interval"][1] - value for value, row in zip(values, known, strict=True)],
    ]
    at = [row["threshold"] for row in known]
    axes.errorbar(at, values, yerr=ends, color=color, marker="o", capsize=3, linewidth=1.4, label=label)


def _threshold_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    sizes = [
        name for name in ("documents", "characters", "tokens") if f"thrown_{name}" in found["thresholds"][0]
    ]
    head = ["from score", "precision", "recall", *(f"{name} thrown" for name in sizes), "safe ones lost"]
    rows = [
        [
            str(row["threshold"]),
            *(_share(row, name) for name in ("precision", "recall")),
            *(_percent(row[f"thrown_{name}"]) for name in sizes),
            _share(row, "safe_lost"),
        ]
        for row in found["thresholds"]
    ]
    return head, rows


def _score_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = ["score", "documents", "labelled", *(f"as {k}" for k in range(6))]
    head += [f"label ≥ {found['unsafe_from']}", "precision", "recall"]
    rows = [
        [
            str(row["score"]), f"{row['documents']:,}", str(row["sampled"]), *map(str, row["labels"]),
            *(_share(row, name) for name in ("unsafe", "precision", "recall")),
        ]
        for row in found["scores"]
    ]  # fmt: skip
    return head, rows


def _share(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "–"
    low, high = row[f"{name}_interval"]
    return f"{100 * row[name]:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
