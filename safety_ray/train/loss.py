"""Next-token cross-entropy, computed in chunks so that the logits need little memory."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}  # per chunk: fits a CPU's cache, fills a GPU
_TILE = {"cuda": 1024}  # rows of a chunk are a multiple, so that no tile of a matrix product is partly empty
_FEWEST = 512  # rows of a chunk with a large vocabulary; each chunk adds to a gradient of [V, D]


def summed_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropies of `targets_N` and each of them [N], in fp32.

    The distribution is softmax(hidden · weightᵀ). Only the sum has a gradient. IGNORED targets have loss 0.
    The gradient of each chunk is computed together with its logits, so memory is [chunk, V]. With `compiled`,
    torch.compile fuses the passes over the logits of a chunk.
    """
    total, losses_N = _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, targets_N, compiled)
    return total, losses_N


def chunk_rows(rows: int, vocabulary: int, device: str) -> int:
    """Return the rows of a chunk: chunks are as few as memory allows, and nearly equal."""
    tile = _TILE.get(device, 1)
    most = max(_LOGITS.get(device, 1 << 24) // vocabulary // tile * tile, _FEWEST, tile)
    chunks = max(-(-rows // most), 1)
    return max(-(-rows // (chunks * tile)), 1) * tile


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, compiled: bool
    ) -> tuple[Tensor, Tensor]:
        losses_and_grad = _compiled() if compiled else _losses_and_grad
        chunk = chunk_rows(len(targets_N), len(weight_VD), hidden_ND.device.type)
        losses_N = torch.zeros(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        grad_ND = torch.empty_like(hidden_ND)
        learn_head = ctx.needs_input_grad[1]  # false if only adapters are trained
        grad_VD = torch.zeros_like(
            weight_VD, dtype=torch.float32
        )  # a sum over chunks, which needs more precision than bf16
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            hidden_CD = hidden_ND[part]
            losses_N[part], grad_CV = losses_and_grad(hidden_CD @ weight_VD.T, targets_N[part])
            grad_ND[part] = grad_CV @ weight_VD
            if learn_head:
                grad_VD += grad_CV.T @ hidden_CD
        ctx.save_for_backward(grad_ND, grad_VD.to(weight_VD.dtype))
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        return (grad_ND * grads[0]).to(grad_ND.dtype), (grad_VD * grads[0]).to(grad_VD.dtype), None, None


def _losses_and_grad(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses [C] of a chunk in fp32, and the gradient of their sum: softmax - onehot."""
    learned_C1, column_C1 = (targets_C != IGNORED)[:, None], targets_C.clamp(min=0)[:, None]
    logs_CV = torch.log_softmax(logits_CV.float(), dim=-1)
    losses_C = -(logs_CV.gather(1, column_C1) * learned_C1)[:, 0]
    grad_CV = logs_CV.exp_()  # in place, as each pass over fp32 logits is slow
    grad_CV.scatter_add_(1, column_C1, grad_CV.new_full((1, 1), -1.0).expand_as(column_C1))
    return losses_C, grad_CV.mul_(learned_C1).to(logits_CV.dtype)


def _losses_and_grad_to_fuse(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Do the same without a scatter, which torch.compile cannot fuse with the other passes."""
    learned_C1, column_C1 = (targets_C != IGNORED)[:, None], targets_C.clamp(min=0)[:, None]
    logs_CV = torch.log_softmax(logits_CV.float(), dim=-1)
    losses_C = -(logs_CV.gather(1, column_C1) * learned_C1)[:, 0]
    onehot_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device)[None] == column_C1
    return losses_C, ((logs_CV.exp() - onehot_CV.float()) * learned_C1).to(logits_CV.dtype)


@cache
def _compiled() -> Any:
    return torch.compile(_losses_and_grad_to_fuse)
