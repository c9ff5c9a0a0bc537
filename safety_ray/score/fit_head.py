"""The head on a frozen encoder: six-way logistic regression, to its optimum."""

from __future__ import annotations

import torch

from safety_ray.records import SCORES
from safety_ray.score.calibration import range_loss
from safety_ray.score.classifier import Head


def fit_head(
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    *,
    unsafe_weight: float,
    l2: float,
    steps: int = 300,
) -> Head:
    """The head on (n, width) embeddings whose scores lie in `low`..`high`, both (n,).

    The paper trains the head with AdamW for an epoch; on a frozen encoder the problem is convex where
    scores are exact, and L-BFGS finds its optimum in seconds, the same at every run.
    """
    weight = torch.zeros(SCORES, x.shape[1], requires_grad=True)
    bias = torch.zeros(SCORES, requires_grad=True)
    per_row = torch.where(low > 0, unsafe_weight, 1.0)
    per_row = per_row / per_row.sum()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (per_row * range_loss(x @ weight.T + bias, low, high)).sum() + l2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Head(weight.detach(), bias.detach())
