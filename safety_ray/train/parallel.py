"""Share a model out over the workers: FSDP2 by block, bf16 for products, fp32 for sums."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

_SMALL = 1 << 30  # parameters whose whole copy a worker can keep from forward to backward, in bytes


def shard(model: nn.Module, blocks: list[nn.Module], *, device: str, precision: str) -> None:
    """Shard `blocks` and what is left of `model`, in place, over all processes of the default group.

    Gradients are summed over the workers, not averaged: the loss is already divided by the tokens
    of the global batch, so that its gradient does not depend on how many workers there are.
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    size = sum(p.numel() for p in model.parameters()) * dtype.itemsize
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=size > _SMALL)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
