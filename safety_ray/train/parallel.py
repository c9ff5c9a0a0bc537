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
from safety_ray.train.float8 import COMPILE_OPTIONS

_SHARE = 4  # weights and gradients of a step may take a fourth of a GPU
_CPU_BYTES = 1 << 31  # and this much of a CPU worker's memory


def recompute(blocks: nn.ModuleList) -> None:
    """Enable activation checkpointing of each block, in place.

    Only the input of a block is kept; its activations are recomputed in the backward pass, which costs about
    a third more compute.
    """
    for n, block in enumerate(blocks):
        blocks[n] = checkpoint_wrapper(block)


def compile_blocks(blocks: nn.ModuleList, *, fp8: bool) -> None:
    """Let torch.compile compile each block at its first call, in place; `fp8`: they compute in float8."""
    for block in blocks:
        block.compile(options=COMPILE_OPTIONS if fp8 else None)


def agreed_precision(setting: str, device: torch.device) -> str:
    """Return "bf16" or "fp32"; for "auto", bf16 if the devices of all processes support it natively."""
    if setting != "auto":
        return setting
    native = torch.tensor(int(fast_bf16(str(device))), device=device)
    dist.all_reduce(native, dist.ReduceOp.MIN)
    return "bf16" if native.item() else "fp32"


def agreed_gather(setting: str, model: nn.Module, device: torch.device, precision: str) -> bool:
    """Return whether weights are gathered once per step, and not for each use; see the setting `gather`.

    For "auto": if the unsharded weights and the fp32 gradient take a fourth of the memory of each worker's
    device, or less.
    """
    if setting != "auto":
        return setting == "step"
    weight = _dtype(precision).itemsize
    needed = sum(p.numel() * (weight + 4 * p.requires_grad) for p in model.parameters())
    memory = torch.cuda.mem_get_info(device)[1] // _SHARE if device.type == "cuda" else _CPU_BYTES
    fits = torch.tensor(int(needed <= memory), device=device)
    dist.all_reduce(fits, dist.ReduceOp.MIN)
    return bool(fits.item())


def shard(
    model: nn.Module,
    blocks: nn.ModuleList,
    *,
    device: str,
    precision: str,
    within: str = "all",
    gather_once: bool = True,
) -> None:
    """Shard `blocks` and the remaining modules of `model`, in place, over all processes of the default group.

    With `within` "node", each node has a whole copy, sharded over its workers, and only gradients are
    exchanged between nodes (HSDP). Gradients are summed over workers, not averaged: the loss is already
    divided by the number of tokens of the global batch, so its gradient does not depend on the number of
    workers. With `gather_once`, the weights gathered in the forward pass are kept for the backward pass.
    """
    mesh = _mesh(device, within)
    policy = MixedPrecisionPolicy(param_dtype=_dtype(precision), reduce_dtype=torch.float32)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not gather_once)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def communicate(model: nn.Module, *, last: bool, gather_once: bool) -> None:
    """Set what the workers exchange in the next micro-batch of a step. `last` is its last one.

    With `gather_once`, weights stay gathered and gradients are added up without being reduced until the last
    one. Without it, only the exchange between nodes waits until then.
    """
    assert isinstance(model, FSDPModule)
    model.set_is_last_backward(last)
    if gather_once:
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)
    else:
        model.set_requires_all_reduce(last)


def _dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


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
