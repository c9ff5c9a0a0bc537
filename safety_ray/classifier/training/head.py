"""The head on a frozen encoder: six-way logistic regression, to its optimum."""

from __future__ import annotations

import numpy as np
import torch

from safety_ray.classifier.calibration import range_loss
from safety_ray.classifier.classifier import Head
from safety_ray.core.records import SCORES


def fit_chunks(
    x: torch.Tensor,
    owner: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    *,
    unsafe_weight: float,
    l2: float,
) -> Head:
    """The head for texts in chunks: `x` (chunks, width) and `owner` (chunks,), `low` and `high` by text.

    A text's label is that of its worst chunk. A first head takes every chunk for it; where texts have
    several, a second one keeps the label for the chunk that the first finds most harmful, and knows of
    the others only that they are no worse.
    """
    head = fit_head(x, low[owner], high[owner], unsafe_weight=unsafe_weight, l2=l2)
    if len(owner.unique()) == len(owner):
        return head
    probs = head(x).softmax(-1)
    at_least = torch.arange(SCORES) >= low[owner][:, None]
    worst = worst_chunks((probs * at_least).sum(1), owner)
    others = torch.ones(len(owner), dtype=torch.bool)
    others[worst] = False
    least = low[owner].masked_fill(others, 0)
    return fit_head(x, least, high[owner], unsafe_weight=unsafe_weight, l2=l2, start=head)


def worst_chunks(risk: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """For each value of `owner`, in order, the chunk with the highest `risk`."""
    order = np.lexsort((risk.numpy(), owner.numpy()))
    return torch.from_numpy(order[np.append(np.diff(owner.numpy()[order]) != 0, True)])


def fit_head(
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    *,
    unsafe_weight: float,
    l2: float,
    steps: int = 300,
    start: Head | None = None,
) -> Head:
    """The head on (n, width) embeddings whose scores lie in `low`..`high`, both (n,).

    The paper trains the head with AdamW for an epoch; on a frozen encoder the problem is convex where
    scores are exact, and L-BFGS finds its optimum in seconds, the same at every run.
    """
    weight = start.weight.clone() if start else torch.zeros(SCORES, x.shape[1])
    bias = start.bias.clone() if start else torch.zeros(SCORES)
    weight.requires_grad_()
    bias.requires_grad_()
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
