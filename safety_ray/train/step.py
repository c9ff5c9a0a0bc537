"""One step: losses and gradients over the global batch, then the optimiser or nothing."""

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
class Seen:
    """What a step saw of the global batch; the same in every worker."""

    loss: float  # mean over the tokens learned from
    tokens: int
    length: float  # of the whole gradient, before it was clipped
    tag_loss: float | None  # where the tag was to be predicted; None where it nowhere was
    source_losses: dict[str, float]  # of the sources that were there
    interrupted: bool  # some worker is to go soon


def backward(
    model: nn.Module, batch: Batch, tag_id: int, config: TrainingConfig, *, interrupted: bool = False
) -> Seen:
    """Put the gradient of the global batch's mean loss into `model`, clipped; all workers call it."""
    device, parts = batch.ids.device, len(SOURCES)
    flags = torch.stack([(batch.targets != IGNORED).sum(), torch.tensor(int(interrupted), device=device)])
    dist.all_reduce(flags)
    tokens = flags[0].clamp(min=1)
    sums = torch.zeros(3 + 2 * parts, dtype=torch.float64, device=device)  # loss, at tags, tags, by source
    for part in batch.split(config.micro_batch_rows or len(batch.ids)):
        total, losses = model(part.ids, part.targets, part.positions)
        (total / tokens).backward()
        tags, learned = part.targets == tag_id, part.targets != IGNORED
        sums[0] += total.detach()
        sums[1] += losses.where(tags, 0.0).sum()
        sums[2] += tags.sum()
        sources = part.sources.flatten()
        sums[3 : 3 + parts].scatter_add_(0, sources, losses.detach().flatten().double())
        sums[3 + parts :].scatter_add_(0, sources, learned.flatten().double())
    dist.all_reduce(sums)
    parameters = [p for p in model.parameters() if p.grad is not None]
    length = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if config.grad_clip:
        nn.utils.clip_grads_with_norm_(parameters, config.grad_clip, length)
    (loss, tag_loss, tags_seen), by_source = sums[:3].tolist(), sums[3:].tolist()
    count, gone = flags.tolist()
    return Seen(
        loss=loss / max(count, 1),
        tokens=count,
        length=_whole(length),
        tag_loss=tag_loss / tags_seen if tags_seen else None,
        source_losses={
            name: by_source[n] / by_source[parts + n]
            for n, name in enumerate(SOURCES)
            if by_source[parts + n]
        },
        interrupted=gone > 0,
    )


def update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Take the step that `backward` prepared."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def _whole(length: Tensor) -> float:
    """A sharded norm as a number."""
    full = getattr(length, "full_tensor", None)
    return float(full() if full else length)
