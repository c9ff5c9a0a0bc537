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
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    tag_id: int = -1,
    tag_weight: float = 1.0,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of `targets_N`, and the cross-entropy of each [N], in fp32.

    The distribution is softmax(hidden · weightᵀ). The loss of a target is its cross-entropy: -log P(tag) for
    the tag, and -log (1 - P(tag)) - log P(token | no tag) for another token. `tag_weight` multiplies the two
    terms with P(tag). They are a proper score of P(tag), so that it is calibrated with any weight.

    Only the sum has a gradient. IGNORED targets have loss 0. The gradient of each chunk is computed together
    with its logits, so memory is [chunk, V]. With `compiled`, torch.compile fuses the passes over the logits
    of a chunk.
    """
    extra = tag_weight - 1 if tag_id >= 0 else 0.0
    total, losses_N = _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, targets_N, tag_id, extra, compiled)
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
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        tag_id: int,
        extra: float,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        losses_and_grad = _compiled() if compiled else _losses_and_grad
        chunk = chunk_rows(len(targets_N), len(weight_VD), hidden_ND.device.type)
        losses_N = torch.zeros(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        total = losses_N.new_zeros(())
        grad_ND = torch.empty_like(hidden_ND)
        learn_head = ctx.needs_input_grad[1]  # false if only adapters are trained
        grad_VD = torch.zeros_like(
            weight_VD, dtype=torch.float32
        )  # a sum over chunks, which needs more precision than bf16
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            hidden_CD = hidden_ND[part]
            losses_N[part], weighted_C, grad_CV = losses_and_grad(
                hidden_CD @ weight_VD.T, targets_N[part], tag_id, extra
            )
            total += weighted_C.sum()
            grad_ND[part] = grad_CV @ weight_VD
            if learn_head:
                grad_VD += grad_CV.T @ hidden_CD
        ctx.save_for_backward(grad_ND, grad_VD.to(weight_VD.dtype))
        ctx.mark_non_differentiable(losses_N)
        return total, losses_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_ND, grad_VD = ctx.saved_tensors
        scaled = (grad_ND * grads[0]).to(grad_ND.dtype), (grad_VD * grads[0]).to(grad_VD.dtype)
        return (*scaled, None, None, None, None)


def _losses_and_grad(
    logits_CV: Tensor, targets_C: Tensor, tag_id: int, extra: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropies of a chunk [C], its losses [C], both in fp32, and the gradient of their sum.

    The gradient of the cross-entropy is softmax - onehot.
    """
    learned_C1, column_C1 = (targets_C != IGNORED)[:, None], targets_C.clamp(min=0)[:, None]
    logs_CV = torch.log_softmax(logits_CV.float(), dim=-1)
    weighted_C = losses_C = -(logs_CV.gather(1, column_C1) * learned_C1)[:, 0]
    if extra:
        of_tag_C, scale_C, at_tag_C = _tag_terms(logs_CV[:, tag_id], targets_C == tag_id, extra)
        weighted_C = losses_C + of_tag_C * learned_C1[:, 0]
    grad_CV = logs_CV.exp_()  # in place, as each pass over fp32 logits is slow
    if extra:
        grad_CV.mul_(scale_C[:, None])
        grad_CV[:, tag_id] = at_tag_C
    grad_CV.scatter_add_(1, column_C1, grad_CV.new_full((1, 1), -1.0).expand_as(column_C1))
    return losses_C, weighted_C, grad_CV.mul_(learned_C1).to(logits_CV.dtype)


def _losses_and_grad_to_fuse(
    logits_CV: Tensor, targets_C: Tensor, tag_id: int, extra: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same without a scatter, which torch.compile cannot fuse with the other passes."""
    learned_C1, column_C1 = (targets_C != IGNORED)[:, None], targets_C.clamp(min=0)[:, None]
    logs_CV = torch.log_softmax(logits_CV.float(), dim=-1)
    weighted_C = losses_C = -(logs_CV.gather(1, column_C1) * learned_C1)[:, 0]
    columns_1V = torch.arange(logits_CV.shape[1], device=logits_CV.device)[None]
    grad_CV = logs_CV.exp()
    if extra:
        of_tag_C, scale_C, at_tag_C = _tag_terms(logs_CV[:, tag_id], targets_C == tag_id, extra)
        weighted_C = losses_C + of_tag_C * learned_C1[:, 0]
        grad_CV = torch.where(columns_1V == tag_id, at_tag_C[:, None], grad_CV * scale_C[:, None])
    grad_CV = (grad_CV - (columns_1V == column_C1).float()) * learned_C1
    return losses_C, weighted_C, grad_CV.to(logits_CV.dtype)


def _tag_terms(log_p_C: Tensor, tags_C: Tensor, extra: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return `extra` times the binary cross-entropy of p = P(tag), and its effect on the gradient.

    The effect is a factor for the softmax, and the value at the tag. The gradient of the binary cross-entropy
    is (y - p) times the distribution of all other tokens, and p - y at the tag, with y = 1 if the target is
    the tag, else 0.
    """
    p_C = log_p_C.exp()
    rest_C = -log_p_C.clamp(max=-1e-6).expm1()  # 1 - p
    of_tag_C = -extra * torch.where(tags_C, log_p_C, rest_C.log())
    change_C = extra * (tags_C.float() - p_C)
    return of_tag_C, 1 + change_C / rest_C, p_C - change_C


@cache
def _compiled() -> Any:
    return torch.compile(_losses_and_grad_to_fuse)
