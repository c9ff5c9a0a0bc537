"""Calibration: the loss of label ranges, temperature scaling and reliability.

Temperature scaling (Guo et al. 2017) divides the logits by one number. It does not change scores and barely
changes rankings. It cannot correct probabilities that are too high for some classes only, as with
`unsafe_weight`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from safety_ray.core.records import SCORES

BINS = 10


def range_loss(logits: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return (n,) -log P(low <= score <= high) of (n, 6) logits: cross-entropy if low = high."""
    levels = torch.arange(SCORES, device=logits.device)
    outside = (levels < low[:, None]) | (levels > high[:, None])
    return -logits.log_softmax(-1).masked_fill(outside, -torch.inf).logsumexp(-1)


def fit_temperature(logits: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> float:
    """Return the temperature in 0.05..20 that minimizes `range_loss` of (n, 6) `logits`, `low` and `high`."""
    log_t = torch.zeros(1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = range_loss(logits.double() / log_t.exp(), low, high).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return round(min(max(float(log_t.detach().exp()), 0.05), 20.0), 4)


def reliability(risk: np.ndarray, unsafe: np.ndarray) -> dict[str, Any]:
    """Compare the predicted probability `risk` (n,) with the share of `unsafe` (n,) rows, in ten bins.

    `predicted` and `true` are the two values of each bin that is not empty. `ece` is the expected calibration
    error: their mean absolute difference, weighted by rows.
    """
    bin_of_row = np.minimum((risk * BINS).astype(int), BINS - 1)
    rows = np.bincount(bin_of_row, minlength=BINS)
    filled = rows > 0
    predicted = np.bincount(bin_of_row, risk, minlength=BINS)[filled] / rows[filled]
    observed = np.bincount(bin_of_row, unsafe.astype(float), minlength=BINS)[filled] / rows[filled]
    return {
        "ece": round(float((rows[filled] * np.abs(predicted - observed)).sum() / rows.sum()), 4),
        "predicted": np.round(predicted, 4).tolist(),
        "true": np.round(observed, 4).tolist(),
        "rows": rows[filled].tolist(),
    }
