"""Probabilities that mean what they say: one temperature, and how far from the truth they lie.

Temperature scaling (Guo et al. 2017) divides the logits by one number. It changes no score and hardly
a ranking; it cannot mend probabilities that are too high on one side only, as `unsafe_weight` makes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from safety_ray.core.records import SCORES

BINS = 10


def range_loss(logits: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """(n,) -log P(low <= score <= high) of (n, 6) logits: cross-entropy where the two are equal."""
    levels = torch.arange(SCORES, device=logits.device)
    outside = (levels < low[:, None]) | (levels > high[:, None])
    return -logits.log_softmax(-1).masked_fill(outside, -torch.inf).logsumexp(-1)


def fit_temperature(logits: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> float:
    """The temperature in 0.05..20 under which (n, 6) `logits` make scores in low..high likeliest."""
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
    """How often what was said to be unsafe with probability `risk` (n,) is `unsafe` (n,), in ten bins.

    `ece` is the expected calibration error: the mean gap between the two, weighted by rows.
    """
    at = np.minimum((risk * BINS).astype(int), BINS - 1)
    rows = np.bincount(at, minlength=BINS)
    filled = rows > 0
    said = np.bincount(at, risk, minlength=BINS)[filled] / rows[filled]
    true = np.bincount(at, unsafe.astype(float), minlength=BINS)[filled] / rows[filled]
    return {
        "ece": round(float((rows[filled] * np.abs(said - true)).sum() / rows.sum()), 4),
        "said": np.round(said, 4).tolist(),
        "true": np.round(true, 4).tolist(),
        "rows": rows[filled].tolist(),
    }
