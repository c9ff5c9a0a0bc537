"""How good a classifier is: the figures of the paper's table (section 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from safety_ray.records import SCORES


def measure(labels: list[int], predicted: list[int], probs: np.ndarray) -> dict[str, Any]:
    """Macro F1 over the six scores; recall, precision and AUROC at the thresholds 1 and 3.

    `probs` is (n, 6). The risk that AUROC ranks by is the probability of any score at or above
    the threshold. A figure that the labels do not define (a class is missing) is None.
    """
    y, p = np.asarray(labels), np.asarray(predicted)
    levels = list(range(SCORES))
    out: dict[str, Any] = {
        "n": len(y),
        "macro_f1": round(float(f1_score(y, p, labels=levels, average="macro", zero_division=0)), 4),
        "confusion": confusion_matrix(y, p, labels=levels).tolist(),
    }
    for t in (1, 3):
        unsafe, flagged = y >= t, p >= t
        hits = int((unsafe & flagged).sum())
        out[f"recall_at_{t}"] = round(hits / int(unsafe.sum()), 4) if unsafe.any() else None
        out[f"precision_at_{t}"] = round(hits / int(flagged.sum()), 4) if flagged.any() else None
        mixed = unsafe.any() and not unsafe.all()
        out[f"auroc_at_{t}"] = round(float(roc_auc_score(unsafe, probs[:, t:].sum(1))), 4) if mixed else None
    return out
