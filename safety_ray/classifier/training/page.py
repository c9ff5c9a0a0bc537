"""README.md of a trained classifier, with its metrics."""

from __future__ import annotations

from typing import Any

from safety_ray.core.markdown import number, percent, table


def page(metrics: dict[str, Any]) -> str:
    """Return the Markdown page of `metrics`, the content of metrics.json."""
    calibration, needles = metrics["calibration"], metrics["needle_in_haystack"]
    lines = ["# Harm classifier", "", "![figures](fit.png)", "", *source_table(metrics), ""]
    lines += [
        "AUROC is the mean over the thresholds that the labels of a source define. R, P and FA are recall,",
        "precision and false alarms (share of safe texts that are flagged) at a minimum score. – is a metric",
        "that the labels do not define.",
        "",
    ]
    if needles:
        lines.append(
            "Needle-in-haystack: of harmless texts with a short harmful text in them, "
            f"{percent(needles['recall_at_3'])} are scored 3 or more, and without it "
            f"{percent(needles['false_alarms_at_3'])} "
            f"(AUROC {number(needles['auroc_at_3'])}, {needles['n']} pairs)."
        )
    errors = ", ".join(
        f"at ≥ {t} {before['ece']:.3f} before and {calibration['after'][t]['ece']:.3f} after"
        for t, before in calibration["before"].items()
        if before
    )
    lines.append(f"Temperature {calibration['temperature']:.2f}; expected calibration error {errors}.")
    return "\n".join(lines) + "\n"


def source_table(metrics: dict[str, Any]) -> list[str]:
    """Return a Markdown table with one row per source, and its metrics when left out, if measured."""
    unseen = metrics.get("leave_one_out") or {}
    head = ["source", "texts", "macro F1", "AUROC", *(["AUROC unseen"] if unseen else [])]
    head += ["R@1", "P@1", "FA@1", "R@3", "P@3", "FA@3", *(["R@3 unseen", "FA@3 unseen"] if unseen else [])]
    rows = []
    keys = [f"{metric}_at_{t}" for t in (1, 3) for metric in ("recall", "precision", "false_alarms")]
    for name, values in [("all", metrics), *metrics["sources"].items()]:
        left_out = unseen.get(name) or {}
        row = [name, f"{values['n']:,}", number(values["macro_f1"]), number(values["auroc"])]
        row += [number(unseen["mean_auroc"] if name == "all" else left_out.get("auroc"))] if unseen else []
        row += [percent(values[key]) for key in keys]
        row += [percent(left_out.get(key)) for key in ("recall_at_3", "false_alarms_at_3")] if unseen else []
        rows.append(row)
    return table(head, rows)
