"""One step: losses and gradients of the global batch, and the update of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from safety_ray.train.batches import Batch
from safety_ray.train.data import SOURCES
from safety_ray.train.loss import IGNORED
from safety_ray.train.settings import TrainingConfig


@dataclass(frozen=True, slots=True)
class StepResult:
    """Losses and gradient norm of a global batch; the same in every worker."""

    loss: float  # mean over the targets
    tokens: int  # number of targets
    grad_norm: float  # of the whole gradient, before clipping
    tag_loss: float | None  # mean over targets that are the tag; None if there are none
    source_losses: dict[str, float]  # by source, of those in the batch
    preempted: bool  # whether some worker will be preempted soon


def backward(
    model: nn.Module, batch: Batch, tag_id: int, config: TrainingConfig, *, preempted: bool = False
) -> StepResult:
    """Compute the clipped gradient of the global batch's mean loss. All workers call this function."""
    device, count = batch.ids.device, len(SOURCES)
    flags = torch.stack([(batch.targets != IGNORED).sum(), torch.tensor(int(preempted), device=device)])
    dist.all_reduce(flags)
    tokens = flags[0].clamp(min=1)
    sums = torch.zeros(
        3 + 2 * count, dtype=torch.float64, device=device
    )  # loss, tag loss, tags, losses by source, targets by source
    for micro in batch.split(config.micro_batch_rows or len(batch.ids)):
        total, losses = model(micro.ids, micro.targets, micro.positions)
        (total / tokens).backward()
        tags, learned = micro.targets == tag_id, micro.targets != IGNORED
        sums[0] += total.detach()
        sums[1] += losses.where(tags, 0.0).sum()
        sums[2] += tags.sum()
        sources = micro.sources.flatten()
        sums[3 : 3 + count].scatter_add_(0, sources, losses.detach().flatten().double())
        sums[3 + count :].scatter_add_(0, sources, learned.flatten().double())
    dist.all_reduce(sums)
    parameters = [p for p in model.parameters() if p.grad is not None]
    grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if config.grad_clip:
        nn.utils.clip_grads_with_norm_(parameters, config.grad_clip, grad_norm)
    (loss, tag_loss, tag_count), by_source = sums[:3].tolist(), sums[3:].tolist()
    targets, preemptions = flags.tolist()
    return StepResult(
        loss=loss / max(targets, 1),
        tokens=targets,
        grad_norm=_full_norm(grad_norm),
        tag_loss=tag_loss / tag_count if tag_count else None,
        source_losses={
            name: by_source[n] / by_source[count + n]
            for n, name in enumerate(SOURCES)
            if by_source[count + n]
        },
        preempted=preemptions > 0,
    )


def update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Apply the gradient that `backward` has computed, with the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def _full_norm(norm: Tensor) -> float:
    """Return the value of a norm, which is sharded if the parameters are."""
    full_tensor = getattr(norm, "full_tensor", None)
    return float(full_tensor() if full_tensor else norm)
