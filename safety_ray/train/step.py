"""One step: losses and gradients of the global batch, and the update of the weights.

`backward` and `update` read nothing from the device, so that all kernels of a step are queued while the first
ones run. The device decides whether the step is applied; `read` waits for it. A `Copy` can be read after the
next step has been queued, so that the device need not wait for the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from safety_ray.core.terms import SOURCES
from safety_ray.train.batches import Batch
from safety_ray.train.loss import IGNORED
from safety_ray.train.optim import FusedAdamW
from safety_ray.train.parallel import communicate
from safety_ray.train.settings import TrainingConfig

# Indices of the sums of a step. The losses and numbers of targets by source follow.
_LOSS, _TARGETS, _TAG_LOSS, _TAGS, _SQUARES, _PREEMPTED, _APPLIED, _BY_SOURCE = range(8)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Losses and gradient norm of a global batch; the same in every worker."""

    loss: float  # mean over the targets
    tokens: int  # number of targets
    grad_norm: float  # of the whole gradient, before clipping
    tag_loss: float | None  # mean over targets that are the tag; None if there are none
    source_losses: dict[str, float]  # by source, of those in the batch
    preempted: bool  # whether some worker will be preempted soon
    applied: bool = True  # whether the weights were updated


def backward(
    model: nn.Module,
    batch: Batch,
    tag_id: int,
    config: TrainingConfig,
    *,
    gather_once: bool = False,
    preempted: bool = False,
) -> Tensor:
    """Compute the gradient of the global batch's mean loss. All workers call this function.

    Args:
        model: a model that `shard` has sharded.
        batch: this worker's rows.
        tag_id: id of the harmfulness tag.
        config: settings of the run.
        gather_once: gather weights and reduce gradients once, and not in each micro-batch.
        preempted: whether this worker will be preempted soon.

    Returns:
        The sums of the step over all workers, on the device, for `update` and `read`.
    """
    device, by_source = batch.ids.device, slice(_BY_SOURCE, _BY_SOURCE + len(SOURCES))
    targets = (batch.targets != IGNORED).sum()
    dist.all_reduce(targets)
    sums = torch.zeros(_BY_SOURCE + 2 * len(SOURCES), dtype=torch.float64, device=device)
    micro_batches = list(batch.split(config.micro_batch_rows or len(batch.ids)))
    for n, micro in enumerate(micro_batches, start=1):
        communicate(model, last=n == len(micro_batches), gather_once=gather_once)
        total, losses = model(micro.ids, micro.targets, micro.positions, tag_id, config.tag_weight)
        (total / targets.clamp(min=1)).backward()
        losses = losses.detach()
        tags, learned = micro.targets == tag_id, micro.targets != IGNORED
        sums[_LOSS] += losses.sum()
        sums[_TAG_LOSS] += losses.where(tags, 0.0).sum()
        sums[_TAGS] += tags.sum()
        sources = micro.sources.flatten()
        sums[by_source].scatter_add_(0, sources, losses.flatten().double())
        sums[by_source.stop :].scatter_add_(0, sources, learned.flatten().double())
    sums[_SQUARES] = _squared_norm(model)
    sums[_PREEMPTED] = int(preempted)
    dist.all_reduce(sums)
    sums[_TARGETS] = targets
    return sums


def update(
    optimizer: FusedAdamW, sums: Tensor, rate: float, *, grad_clip: float = 0.0, limit: float = math.inf
) -> None:
    """Apply the gradient that `backward` has computed.

    A bad step changes neither weights nor moments: one whose loss or gradient norm is not finite, or whose
    loss is above `limit`.

    Args:
        optimizer: the optimizer.
        sums: the result of `backward`.
        rate: learning rate.
        grad_clip: maximum norm of the gradient; 0: no clipping.
        limit: highest loss of a step that is applied.
    """
    loss, norm = sums[_LOSS] / sums[_TARGETS].clamp(min=1), sums[_SQUARES].sqrt()
    applied = loss.isfinite() & norm.isfinite() & (loss <= limit)
    sums[_APPLIED] = applied
    optimizer.found_inf = (~applied).float()
    optimizer.grad_scale = ((norm + 1e-6) / grad_clip).clamp(min=1).float() if grad_clip else None
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def read(sums: Tensor) -> StepResult:
    """Wait until the device has finished the step; return its result."""
    values = sums.tolist()
    losses, counts = values[_BY_SOURCE : _BY_SOURCE + len(SOURCES)], values[_BY_SOURCE + len(SOURCES) :]
    return StepResult(
        loss=values[_LOSS] / max(values[_TARGETS], 1),
        tokens=int(values[_TARGETS]),
        grad_norm=math.sqrt(values[_SQUARES]),
        tag_loss=values[_TAG_LOSS] / values[_TAGS] if values[_TAGS] else None,
        source_losses={
            name: loss / count for name, loss, count in zip(SOURCES, losses, counts, strict=True) if count
        },
        preempted=values[_PREEMPTED] > 0,
        applied=values[_APPLIED] > 0,
    )


class Copy:
    """The sums of a step, copied to the host while the device continues."""

    def __init__(self, sums: Tensor) -> None:
        self._sums = sums.to("cpu", non_blocking=True)  # from a GPU: into pinned memory
        self._copied = torch.cuda.Event() if sums.is_cuda else None
        if self._copied:
            self._copied.record(torch.cuda.current_stream(sums.device))

    def read(self) -> StepResult:
        """Wait until the device has finished the step; return its result."""
        if self._copied:
            self._copied.synchronize()
        return read(self._sums)


def _squared_norm(model: nn.Module) -> Tensor:
    """Return this worker's part of the squared norm of the gradient; the whole is the sum over workers."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    copies = math.prod(
        mesh_size
        for gradient in gradients[:1]
        if isinstance(gradient, DTensor)
        for mesh_size, placement in zip(gradient.device_mesh.shape, gradient.placements, strict=True)
        if placement.is_replicate()
    )
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    return nn.utils.get_total_norm(local).double().square() / copies
