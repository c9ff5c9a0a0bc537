"""The summary of a pipeline run: rows and seconds of each stage, main results, answers of the endpoint."""

from __future__ import annotations

import json
from typing import Any

from safety_ray.core import lost_work

_COUNTS = ("rows_in", "rows_out", "rejected")
RESULTS = ("p_tag_auroc", "unsafe_rate_beam", "unsafe_rate_safebeam", "perplexity_safe")


def summarize(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the counts and main results of the records; empty values for stages that did not run."""
    results: dict[str, Any] = records.get("evaluate", {}).get("results", {})
    return {
        "stages": [
            {
                "name": name,
                **{key: record[key] for key in (*_COUNTS, "seconds", lost_work.KEY) if key in record},
            }
            for name, record in records.items()
        ],
        "engines": records.get("rewrite", {}).get("engines", {}),
        # A model without the tag has no AUROC of P(tag), for example.
        "results": {k: results.get(k) for k in RESULTS} if results else {},
        "intervals": {k: results[f"{k}_interval"] for k in RESULTS if f"{k}_interval" in results},
        "judge": _judge(results),
        "warnings": results.get("warnings", []),
        "endpoint": records["endpoint"]["answers"] if "endpoint" in records else {},
    }


def _judge(results: dict[str, Any]) -> str:
    """Return the judge of the rates with its errors on answers with human labels; empty without rates."""
    name = results.get("unsafe_rate_judge")
    errors = results["judges"][name]["errors"] if name else None
    if errors is None:
        return f"{name}, whose errors were not measured" if name else ""
    misses, alarms = (1 - errors[key] for key in ("sensitivity", "specificity"))
    return f"{name}, which misses {misses:.0%} of harmful answers and has {alarms:.0%} false alarms"


def summary_table(summary: dict[str, Any]) -> str:
    """Format the summary for the console."""
    lines = ["", f"{'stage':<14}{'rows in':>12}{'rows out':>12}{'rejected':>12}{'seconds':>10}"]
    for row in summary["stages"]:
        counts = "".join(f"{row[key]:>12,}" for key in _COUNTS)
        lines.append(f"{row['name']:<14}{counts}{row['seconds']:>10.1f}")
    for row in summary["stages"]:
        if lost := lost_work.describe(row):
            lines.append(f"{row['name']}: {lost}")
    for engine, counts in summary["engines"].items():
        tried = sum(counts.values())
        share = counts["accepted"] / tried if tried else 0.0
        lines.append(
            f"\nrewritten by {engine}: {counts['accepted']:,} of {tried:,} texts accepted ({share:.0%})"
        )
    lines.append("")
    for key, value in summary["results"].items():
        lines.append(f"{key:<22}{'-' if value is None else f'{value:.3f}':>10}")
        if key in summary["intervals"]:
            lines[-1] += " ({:.3f} to {:.3f})".format(*summary["intervals"][key])
    if summary["judge"]:
        lines.append(f"judge of the rates: {summary['judge']}")
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    for mode, answer in summary["endpoint"].items():
        lines.append(f"\nendpoint, {mode}: {json.dumps(answer, ensure_ascii=False)}")
    return "\n".join(lines)
