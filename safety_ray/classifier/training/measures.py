"""A fitted classifier's figures: on all held-out texts, on each source, on harm amid calm text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from safety_ray.classifier.calibration import fit_temperature, reliability
from safety_ray.classifier.classifier import Classifier
from safety_ray.classifier.metrics import REPORTED, auroc, measure
from safety_ray.classifier.training.rows import HARM, Row
from safety_ray.core.records import stable_hash

SIDES = 2
"""parts of the held-out texts, each calibrated with the temperature of the other"""


def measure_rows(logits: torch.Tensor, rows: list[Row]) -> dict[str, Any]:
    """`metrics.measure` of (n, 6) `logits` of the deciding chunks of `rows`."""
    low, high = [row["label"] for row in rows], [row["label_max"] for row in rows]
    return measure(low, high, logits.argmax(-1).tolist(), logits.softmax(-1).numpy())


def measure_sources(logits: torch.Tensor, rows: list[Row]) -> dict[str, Any]:
    """The figures of all `rows`, and in `sources` those of each source by itself."""
    by: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by.setdefault(row["source"], []).append(place)
    each = {name: measure_rows(logits[at], [rows[i] for i in at]) for name, at in by.items()}
    return {**measure_rows(logits, rows), "sources": each}


def measure_buried(classifier: Classifier, pairs: list[tuple[Row, Row]]) -> dict[str, Any] | None:
    """How well harm is seen amid calm text: each of `pairs` is a calm text with and without it."""
    if not pairs:
        return None
    found = classifier.predict([row["text"] for row in [*(a for a, _ in pairs), *(b for _, b in pairs)]])
    probs = np.array([p.probs for p in found])
    flagged = np.array([p.score >= HARM for p in found])
    low = np.repeat([HARM, 0], len(pairs))
    area = auroc(low, np.where(low, 5, 0), probs, HARM)
    return {
        "n": len(pairs),
        "recall_at_3": round(float(flagged[: len(pairs)].mean()), 4),
        "false_alarms_at_3": round(float(flagged[len(pairs) :].mean()), 4),
        "auroc_at_3": None if area is None else round(area, 4),
    }


def calibrate(logits: torch.Tensor, rows: list[Row], seed: int) -> tuple[float, dict[str, Any]]:
    """The temperature for (n, 6) `logits` of held-out `rows`, and how reliable they are before and after.

    The temperature is fitted on all rows. The figures "after" are not: each half of the rows is
    measured with the temperature of the other half.
    """
    low = torch.tensor([row["label"] for row in rows])
    high = torch.tensor([row["label_max"] for row in rows])
    side = torch.tensor([stable_hash(seed, "calibrate", row["family"]) % SIDES for row in rows])
    temperature = fit_temperature(logits, low, high)
    apart = logits.clone()
    for one in range(SIDES):
        if (side == one).any() and (side != one).any():
            apart[side == one] /= fit_temperature(logits[side != one], low[side != one], high[side != one])
    return temperature, {
        "temperature": temperature,
        "before": _reliability(logits, low, high),
        "after": _reliability(apart, low, high),
    }


def _reliability(logits: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> dict[str, Any]:
    """The reliability of P(score >= t) at the reported thresholds, over rows whose side is known."""
    out: dict[str, Any] = {}
    for t in REPORTED:
        unsafe, safe = low >= t, high < t
        known = unsafe | safe
        risk = logits[known].softmax(-1)[:, t:].sum(1).clamp(0, 1)
        out[str(t)] = reliability(risk.numpy(), unsafe[known].numpy()) if known.any() else None
    return out
