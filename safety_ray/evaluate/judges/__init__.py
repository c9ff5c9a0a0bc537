"""Registry of the judges of model answers, each with its measured error against human labels.

A judge is one file with a `JUDGE`. To add one, write such a file, add it here, and measure it with
`python -m benchmarks.judges`. A rate is reported with the judge's error, and only a judge with `trusted` may
carry a headline.
"""

from __future__ import annotations

from safety_ray.core.errors import UserError, nearest
from safety_ray.evaluate.judges import harm_classifier, harm_lm, over_refusal_lm, refusal, refusal_prefix
from safety_ray.evaluate.judges.judge import Judge, JudgeSpec
from safety_ray.evaluate.judges.lm import LmJudge
from safety_ray.evaluate.judges.measured import Errors, Measurement
from safety_ray.evaluate.judges.verdict import Answer, Verdict

__all__ = ["JUDGES", "Answer", "Errors", "Judge", "JudgeSpec", "LmJudge", "Measurement", "Verdict", "find"]

JUDGES: dict[str, JudgeSpec] = {
    spec.name: spec
    for spec in (
        refusal.JUDGE,
        refusal_prefix.JUDGE,
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
