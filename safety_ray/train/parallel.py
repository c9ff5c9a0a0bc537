"""Shard a model over the workers: FSDP2 per block, bf16 for matrix products, fp32 for reductions."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from safety_ray.core.device import fast_bf16
from safety_ray.core.errors import UserError

_SMALL = 1 << 30  # bytes of parameters below which workers keep them unsharded between forward and backward


def recompute(blocks: nn.ModuleList) -> None:
    """Enable activation checkpointing of each block, in place.

    Only the input of a block is kept; its activations are recomputed in the backward pass, which costs about
    a third more compute.
    """
    for n, block in enumerate(blocks):
        blocks[n] = checkpoint_wrapper(block)


def agreed_precision(setting: str, device: torch.device) -> str:
    """Return "bf16" or "fp32"; for "auto", bf16 if the devices of all processes support it natively."""
    if setting != "auto":
        return setting
    native = torch.tensor(int(fast_bf16(str(device))), device=device)
    dist.all_reduce(native, dist.ReduceOp.MIN)
    return "bf16" if native.item() else "fp32"


def shard(
    model: nn.Module, blocks: nn.ModuleList, *, device: str, precision: str, within: str = "all"
) -> None:
    """Shard `blocks` and the remaining modules of `model`, in place, over all processes of the default group.

    With `within` "node", each node has a whole copy, sharded over its workers, and only gradients are
    exchanged between nodes (HSDP). Gradients are summed over workers, not averaged: the loss is already
    divided by the number of tokens of the global batch, so its gradient does not depend on the number of
    workers.
    """
    mesh = _mesh(device, within)
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


def _mesh(device: str, within: str) -> DeviceMesh:
    world = dist.get_world_size()
    if within == "all":
        return init_device_mesh(device, (world,))
    sizes: list[int] = [0] * world
    dist.all_gather_object(sizes, int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    if len(set(sizes)) != 1:
        raise UserError(
            f"shard_within=node: the nodes have {min(sizes)} to {max(sizes)} workers; use the same number on "
            "each node, or shard_within=all."
        )
    shape = (world // sizes[0], sizes[0])
    return init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard"))
