"""Metrics of the paper's table (section 1), for labels that may be ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from safety_ray.core.records import SCORES

REPORTED = (1, 3)
"""thresholds of the paper's recall"""


def measure(low: list[int], high: list[int], predicted: list[int], probs: np.ndarray) -> dict[str, Any]:
    """Return macro F1 and confusion over the six scores, and recall, precision and AUROC at thresholds.

    The true score of a row is in `low`..`high`; `probs` is (n, 6). Macro F1 and the confusion matrix (true
    scores in rows, predicted ones in columns) use the rows with an exact score; a threshold uses the rows
    whose range it does not divide. AUROC ranks by the probability of a score at or above the threshold. A
    metric that the labels do not define is None. `auroc` is the mean over the thresholds that have both
    safe and unsafe rows.
    """
    lowest, highest, scores = np.asarray(low), np.asarray(high), np.asarray(predicted)
    exact, levels = lowest == highest, list(range(SCORES))
    truth, exact_scores = lowest[exact], scores[exact]
    out: dict[str, Any] = {"n": len(scores), "exact": int(exact.sum())}
    graded = len(set(truth)) > 1  # a set whose only exact level is 0 does not test levels
    f1 = f1_score(truth, exact_scores, labels=levels, average="macro", zero_division=0) if graded else None
    out["macro_f1"] = _rounded(f1)
    out["confusion"] = confusion_matrix(truth, exact_scores, labels=levels).tolist() if exact.any() else None
    aurocs = {t: auroc(lowest, highest, probs, t) for t in levels[1:]}
    for t in levels[1:]:
        unsafe, safe, flagged = lowest >= t, highest < t, scores >= t
        if t in REPORTED:
            hits, false = int((unsafe & flagged).sum()), int((safe & flagged).sum())
            out[f"recall_at_{t}"] = _rounded(hits / unsafe.sum() if unsafe.any() else None)
            out[f"precision_at_{t}"] = _rounded(
                hits / (hits + false) if unsafe.any() and hits + false else None
            )
            out[f"false_alarms_at_{t}"] = _rounded(false / safe.sum() if safe.any() else None)
        out[f"auroc_at_{t}"] = _rounded(aurocs[t])
    defined = [value for value in aurocs.values() if value is not None]
    out["auroc"] = _rounded(np.mean(defined) if defined else None)
    return out


def auroc(low: np.ndarray, high: np.ndarray, probs: np.ndarray, threshold: int) -> float | None:
    """Return the AUROC of P(score >= threshold) over rows that are safe or unsafe; None without both."""
    unsafe, safe = low >= threshold, high < threshold
    if not unsafe.any() or not safe.any():
        return None
    known = unsafe | safe
    return float(roc_auc_score(unsafe[known], probs[known, threshold:].sum(1)))


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)
