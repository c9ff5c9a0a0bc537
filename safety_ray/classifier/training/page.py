"""A fit's figures as a page: README.md beside the classifier."""

from __future__ import annotations

from typing import Any


def page(metrics: dict[str, Any]) -> str:
    """Markdown of `metrics` as `fit.run` writes them."""
    found, buried = metrics["calibration"], metrics["buried"]
    lines = ["# Harm classifier", "", "![figures](fit.png)", "", *source_table(metrics), ""]
    lines += [
        "AUROC is the mean over the thresholds that a source's labels tell apart; R, P and FA are recall,",
        "precision and false alarms (share of safe texts that are flagged) from a score on; – is a figure",
        "that the labels do not define.",
        "",
    ]
    if buried:
        lines.append(
            f"A short harmful text amid calm ones: {_percent(buried['recall_at_3'])} are scored 3 or more, "
            f"{_percent(buried['false_alarms_at_3'])} of the calm ones without it are "
            f"(AUROC {_number(buried['auroc_at_3'])}, {buried['n']} pairs)."
        )
    errors = ", ".join(
        f"at ≥ {t} {found['before'][t]['ece']:.3f} before and {found['after'][t]['ece']:.3f} after"
        for t in found["before"]
        if found["before"][t]
    )
    lines.append(f"Temperature {found['temperature']:.2f}; expected calibration error {errors}.")
    return "\n".join(lines) + "\n"


def source_table(metrics: dict[str, Any]) -> list[str]:
    """One line a source: seen, and where it was left out, unseen."""
    unseen = metrics.get("leave_one_out") or {}
    head = ["source", "texts", "macro F1", "AUROC", *(["AUROC unseen"] if unseen else [])]
    head += ["R@1", "P@1", "FA@1", "R@3", "P@3", "FA@3", *(["R@3 unseen", "FA@3 unseen"] if unseen else [])]
    rows = []
    for name, one in [("all", metrics), *metrics["sources"].items()]:
        apart = unseen.get(name) or {}
        row = [name, f"{one['n']:,}", _number(one["macro_f1"]), _number(one["auroc"])]
        row += [_number(unseen["mean_auroc"] if name == "all" else apart.get("auroc"))] if unseen else []
        names = [f"{name}_at_{t}" for t in (1, 3) for name in ("recall", "precision", "false_alarms")]
        row += [_percent(one[key]) for key in names]
        row += [_percent(apart.get(key)) for key in ("recall_at_3", "false_alarms_at_3")] if unseen else []
        rows.append(row)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
