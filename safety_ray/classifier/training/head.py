"""The head on a frozen encoder: six-way logistic regression, trained to its optimum."""

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
    """Train the head on chunks: `x` (chunks, width), `owner` (chunks,) text indices, `low` and `high`
    (texts,).

    The label of a text is that of its worst chunk. A first head is trained with the label for all chunks.
    If texts have several chunks, a second head is trained with the label for the chunk that the first head
    finds most harmful; the other chunks have the range from 0 to the label.
    """
    head = fit_head(x, low[owner], high[owner], unsafe_weight=unsafe_weight, l2=l2)
    if len(owner.unique()) == len(owner):
        return head
    probs = head(x).softmax(-1)
    at_least = torch.arange(SCORES) >= low[owner][:, None]
    worst = worst_chunks((probs * at_least).sum(1), owner)
    others = torch.ones(len(owner), dtype=torch.bool)
    others[worst] = False
    chunk_low = low[owner].masked_fill(others, 0)
    return fit_head(x, chunk_low, high[owner], unsafe_weight=unsafe_weight, l2=l2, start=head)


def worst_chunks(risk: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Return the chunk with the highest `risk` (chunks,) for each value of `owner`, in order."""
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
    """Train the head on (n, width) embeddings with scores in `low`..`high`, both (n,).

    The paper trains the head with AdamW for one epoch. On a frozen encoder the problem is convex for exact
    scores, so L-BFGS finds the optimum in seconds, and the same one in every run.
    """
    weight = start.weight.clone() if start else torch.zeros(SCORES, x.shape[1])
    bias = start.bias.clone() if start else torch.zeros(SCORES)
    weight.requires_grad_()
    bias.requires_grad_()
    row_weight = torch.where(low > 0, unsafe_weight, 1.0)
    row_weight = row_weight / row_weight.sum()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (row_weight * range_loss(x @ weight.T + bias, low, high)).sum() + l2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Head(weight.detach(), bias.detach())
