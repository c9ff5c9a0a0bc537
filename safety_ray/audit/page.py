"""README.md, terminal table and plot of an audit."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from safety_ray.core import drawing, markdown
from safety_ray.core.markdown import percent

_COLORS = {
    "precision": drawing.BLUE,
    "recall": drawing.VERMILLION,
    "removed": drawing.GREY,
    "safe_lost": drawing.GREEN,
}


def readme(audit: dict[str, Any]) -> str:
    """Return the README.md of `audit`, the content of audit.json."""
    labelled = f"{audit['labelled']:,} of {audit['documents']:,} documents, some of each score,"
    return f"""# Audit of the scores of `{audit["scored"]}`

{labelled} were labelled by {audit["labelled_by"]}.
A document is unsafe if its label is {audit["unsafe_from"]} or higher. {verdict(audit)}

## If a filter removes documents from a score on

{_table(*_threshold_rows(audit))}

## Each score

{_table(*_score_rows(audit))}

Ranges are 95 % intervals for the sampling error (strata weighted by their documents, Jeffreys posterior in
each). They apply to these documents only. Removed shares are counted in all documents. The labels are
assumed to be correct: the mistakes of a judge are not included.

![Precision, recall and removed shares](audit.png)
"""


def table(audit: dict[str, Any]) -> str:
    """Return the table of the thresholds for a terminal."""
    head, rows = _threshold_rows(audit)
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(["", *lines, "", verdict(audit)])


def verdict(audit: dict[str, Any]) -> str:
    """Return one sentence with the threshold that reaches the wanted recall or precision."""
    for name, minimum in audit["wanted"].items():
        if audit["threshold"] is None:
            return f"No threshold reaches a {name} of {minimum:.0%}."
        sure = "" if audit["sure"] else ", but the lower end of its interval does not"
        return f"Threshold {audit['threshold']} reaches a {name} of {minimum:.0%}{sure}."
    return "No recall or precision was requested, so no threshold was chosen."


def plot(audit: dict[str, Any]) -> bytes:
    """Return a PNG: precision and recall by threshold on the left, removed shares on the right."""
    figure = drawing.figure(10, 4)
    left, right = figure.subplots(1, 2)
    rows = audit["thresholds"]
    thresholds = [row["threshold"] for row in rows]
    for name in ("precision", "recall"):
        _line(left, rows, name, _COLORS[name], name)
    for name, minimum in audit["wanted"].items():
        left.axhline(100 * minimum, color=_COLORS[name], linewidth=0.8, linestyle=":")
    left.set_ylabel(f"of documents with label ≥ {audit['unsafe_from']} (%)")
    removed = [100 * (row["removed_documents"] or 0) for row in rows]
    right.bar(thresholds, removed, 0.6, color=_COLORS["removed"], alpha=0.5, label="of all documents")
    _line(right, rows, "safe_lost", _COLORS["safe_lost"], "of safe documents")
    right.set_ylabel("removed (%)")
    for axes in (left, right):
        axes.set_xlabel("threshold: lowest removed score")
        axes.set_xticks(thresholds)
        axes.set_ylim(0, 104)
        drawing.open_frame(axes)
        axes.legend(frameon=False)
    return drawing.png(figure)


def _line(axes: Axes, rows: list[dict[str, Any]], name: str, color: str, label: str) -> None:
    defined = [row for row in rows if row[name] is not None]
    values = [100 * row[name] for row in defined]
    ends = [
        [value - 100 * row[f"{name}_interval"][0] for value, row in zip(values, defined, strict=True)],
        [100 * row[f"{name}_interval"][1] - value for value, row in zip(values, defined, strict=True)],
    ]
    thresholds = [row["threshold"] for row in defined]
    axes.errorbar(
        thresholds, values, yerr=ends, color=color, marker="o", capsize=3, linewidth=1.4, label=label
    )


def _threshold_rows(audit: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    first = audit["thresholds"][0]
    sizes = [name for name in ("documents", "characters", "tokens") if f"removed_{name}" in first]
    head = ["from score", "precision", "recall", *(f"{name} removed" for name in sizes), "safe removed"]
    rows = [
        [
            str(row["threshold"]),
            *(percent(row[name], row[f"{name}_interval"]) for name in ("precision", "recall")),
            *(percent(row[f"removed_{name}"]) for name in sizes),
            percent(row["safe_lost"], row["safe_lost_interval"]),
        ]
        for row in audit["thresholds"]
    ]
    return head, rows


def _score_rows(audit: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = ["score", "documents", "labelled", *(f"as {k}" for k in range(6))]
    head += [f"label ≥ {audit['unsafe_from']}", "precision", "recall"]
    rows = [
        [
            str(row["score"]), f"{row['documents']:,}", str(row["sampled"]), *map(str, row["labels"]),
            *(percent(row[name], row[f"{name}_interval"]) for name in ("unsafe", "precision", "recall")),
        ]
        for row in audit["scores"]
    ]  # fmt: skip
    return head, rows


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(markdown.table(head, rows, texts=0))
