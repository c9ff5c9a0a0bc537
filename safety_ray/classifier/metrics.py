"""How good a classifier is: the figures of the paper's table (section 1), for labels that may be ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from safety_ray.core.records import SCORES

REPORTED = (1, 3)
"""the thresholds of the paper's recall"""


def measure(low: list[int], high: list[int], predicted: list[int], probs: np.ndarray) -> dict[str, Any]:
    """Macro F1 and confusion over the six scores; recall, precision and AUROC at thresholds.

    A row's true score is known to lie in `low`..`high`; `probs` is (n, 6). Macro F1 and the confusion
    matrix (true scores down, predicted ones across) take the rows whose score is known exactly, a
    threshold those that lie on one side of it. The risk that AUROC ranks by is the probability of any
    score at or above the threshold. A figure that the labels do not define is None; `auroc` is the mean
    over the thresholds that have rows on both sides.
    """
    least, most, p = np.asarray(low), np.asarray(high), np.asarray(predicted)
    exact, levels = least == most, list(range(SCORES))
    out: dict[str, Any] = {"n": len(p), "exact": int(exact.sum())}
    graded = len(set(least[exact])) > 1  # a set whose only exact level is 0 says nothing of levels
    f1 = f1_score(least[exact], p[exact], labels=levels, average="macro", zero_division=0) if graded else None
    out["macro_f1"] = _rounded(f1)
    out["confusion"] = (
        confusion_matrix(least[exact], p[exact], labels=levels).tolist() if exact.any() else None
    )
    found = {t: auroc(least, most, probs, t) for t in levels[1:]}
    for t in levels[1:]:
        unsafe, safe, flagged = least >= t, most < t, p >= t
        if t in REPORTED:
            hits, false = int((unsafe & flagged).sum()), int((safe & flagged).sum())
            out[f"recall_at_{t}"] = _rounded(hits / unsafe.sum() if unsafe.any() else None)
            out[f"precision_at_{t}"] = _rounded(
                hits / (hits + false) if unsafe.any() and hits + false else None
            )
            out[f"false_alarms_at_{t}"] = _rounded(false / safe.sum() if safe.any() else None)
        out[f"auroc_at_{t}"] = _rounded(found[t])
    known = [value for value in found.values() if value is not None]
    out["auroc"] = _rounded(np.mean(known) if known else None)
    return out


def auroc(low: np.ndarray, high: np.ndarray, probs: np.ndarray, threshold: int) -> float | None:
    """AUROC of P(score >= threshold) over the rows whose side is known; None without both sides."""
    unsafe, safe = low >= threshold, high < threshold
    if not unsafe.any() or not safe.any():
        return None
    known = unsafe | safe
    return float(roc_auc_score(unsafe[known], probs[known, threshold:].sum(1)))


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)
