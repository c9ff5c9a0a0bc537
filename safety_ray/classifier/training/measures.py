"""Metrics of a trained classifier: on all held-out texts, by source, and needle-in-haystack."""

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
"""halves of the held-out texts, each calibrated with the temperature of the other"""


def measure_rows(logits: torch.Tensor, rows: list[Row]) -> dict[str, Any]:
    """Return `metrics.measure` for the (n, 6) `logits` of the deciding chunks of `rows`."""
    low, high = [row["label"] for row in rows], [row["label_max"] for row in rows]
    return measure(low, high, logits.argmax(-1).tolist(), logits.softmax(-1).numpy())


def measure_sources(logits: torch.Tensor, rows: list[Row]) -> dict[str, Any]:
    """Return the metrics of all `rows`, and those of each source under `sources`."""
    indices: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        indices.setdefault(row["source"], []).append(index)
    sources = {name: measure_rows(logits[own], [rows[i] for i in own]) for name, own in indices.items()}
    return {**measure_rows(logits, rows), "sources": sources}


def measure_needles(classifier: Classifier, pairs: list[tuple[Row, Row]]) -> dict[str, Any] | None:
    """Return how many needles are found; each of `pairs` is a text with and without a needle."""
    if not pairs:
        return None
    rows = [*(with_needle for with_needle, _ in pairs), *(haystack for _, haystack in pairs)]
    predictions = classifier.predict([row["text"] for row in rows])
    probs = np.array([prediction.probs for prediction in predictions])
    flagged = np.array([prediction.score >= HARM for prediction in predictions])
    low = np.repeat([HARM, 0], len(pairs))
    area = auroc(low, np.where(low, 5, 0), probs, HARM)
    return {
        "n": len(pairs),
        "recall_at_3": round(float(flagged[: len(pairs)].mean()), 4),
        "false_alarms_at_3": round(float(flagged[len(pairs) :].mean()), 4),
        "auroc_at_3": None if area is None else round(area, 4),
    }


def calibrate(logits: torch.Tensor, rows: list[Row], seed: int) -> tuple[float, dict[str, Any]]:
    """Return the temperature for (n, 6) `logits` of held-out `rows`, and the reliability before and after.

    The temperature is fitted on all rows. The reliability "after" is cross-fitted: each half of the rows is
    measured with the temperature of the other half.
    """
    low = torch.tensor([row["label"] for row in rows])
    high = torch.tensor([row["label_max"] for row in rows])
    side = torch.tensor([stable_hash(seed, "calibrate", row["family"]) % SIDES for row in rows])
    temperature = fit_temperature(logits, low, high)
    crossed = logits.clone()
    for number in range(SIDES):
        own, other = side == number, side != number
        if own.any() and other.any():
            crossed[own] /= fit_temperature(logits[other], low[other], high[other])
    return temperature, {
        "temperature": temperature,
        "before": _reliability(logits, low, high),
        "after": _reliability(crossed, low, high),
    }


def _reliability(logits: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> dict[str, Any]:
    """Return the reliability of P(score >= t) at the reported thresholds t, over rows that t does not
    divide.
    """
    out: dict[str, Any] = {}
    for t in REPORTED:
        unsafe, safe = low >= t, high < t
        known = unsafe | safe
        risk = logits[known].softmax(-1)[:, t:].sum(1).clamp(0, 1)
        out[str(t)] = reliability(risk.numpy(), unsafe[known].numpy()) if known.any() else None
    return out
