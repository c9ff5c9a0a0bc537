"""Registry of the judges of model answers, each with its measured error against human labels.

A judge is one file with a `JUDGE`. To add one, write such a file, add it here, and measure it with
`python -m benchmarks.judges`. A rate is reported with the judge's error, and only a judge with `trusted` may
carry a headline.
"""

from __future__ import annotations

from safety_ray.core.errors import UserError, nearest
from safety_ray.evaluate.judges import (
    harm_answer,
    harm_classifier,
    harm_lm,
    over_refusal_lm,
    refusal,
    refusal_prefix,
)
from safety_ray.evaluate.judges.judge import Judge, JudgeSpec
from safety_ray.evaluate.judges.lm import LmJudge
from safety_ray.evaluate.judges.measured import Errors, Measurement
from safety_ray.evaluate.judges.verdict import Answer, Verdict

__all__ = [
    "JUDGES", "Answer", "Errors", "Judge", "JudgeSpec", "LmJudge", "Measurement", "Verdict", "find",
    "markdown",
]  # fmt: skip

JUDGES: dict[str, JudgeSpec] = {
    spec.name: spec
    for spec in (
        refusal.JUDGE,
        refusal_prefix.JUDGE,
        harm_answer.JUDGE,
        harm_classifier.JUDGE,
        harm_lm.JUDGE,
        over_refusal_lm.JUDGE,
    )
}


def find(name: str) -> JudgeSpec:
    """Return the judge `name`. Raises UserError with the nearest name if it does not exist."""
    if name not in JUDGES:
        raise UserError(
            f"judge: unknown judge '{name}'; the nearest is '{nearest(name, list(JUDGES))}' "
            f"(choose from {', '.join(JUDGES)})."
        )
    return JUDGES[name]


def markdown() -> str:
    """Return the table of the packaged measurements, for docs/evaluate.md.

    Sets with only one of the two labels are left out, unless they show which refusals are called harmful.
    """
    lines = [
        "| judge | answers | labels | AUROC | sensitivity | specificity | full refusals called harmful |",
        "|---|---|---|---|---|---|---|",
    ]
    for spec in JUDGES.values():
        for m in spec.measured:
            if m.auroc is None and m.asks != spec.detects:
                continue
            low, high = m.auroc_interval or (0.0, 0.0)
            cells = [
                f"`{spec.name}`",
                m.data + (" (tuned)" if m.tuned else ""),
                m.asks,
                "–" if m.auroc is None else f"{m.auroc:.2f} ({low:.2f}–{high:.2f})",
                share(m.tp, m.tp + m.fn),
                share(m.tn, m.tn + m.fp),
                share(m.refusals_called_harmful, m.full_refusals),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def share(count: int, total: int) -> str:
    """Return a share with its total, or a dash without one."""
    return f"{count / total:.0%} of {total}" if total else "–"
