"""Next-token cross-entropy, computed in chunks so that the logits need little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORED = -100
_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}  # per chunk: fits a CPU's cache, fills a GPU


def summed_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropies of `targets_N` and each of them [N], in fp32.

    The distribution is softmax(hidden · weightᵀ). Only the sum has a gradient. IGNORED targets have loss 0.
    The gradient of each chunk is computed together with its logits, so memory is [chunk, V].
    """
    total, losses_N = _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, targets_N)
    return total, losses_N


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        chunk = max(_LOGITS.get(hidden_ND.device.type, 1 << 24) // len(weight_VD), 1)
        losses_N = torch.zeros(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        grad_ND = torch.empty_like(hidden_ND)
        learn_head = ctx.needs_input_grad[1]  # false if only adapters are trained
        grad_VD = torch.zeros_like(
            weight_VD, dtype=torch.float32
        )  # a sum over chunks, which needs more precision than bf16
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            hidden_CD, learned_C1 = hidden_ND[part], (targets_N[part] != IGNORED)[:, None]
            column_C1 = targets_N[part].clamp(min=0)[:, None]
            logs_CV = torch.log_softmax((hidden_CD @ weight_VD.T).float(), dim=-1)
            losses_N[part] = -(logs_CV.gather(1, column_C1) * learned_C1)[:, 0]
            grad_CV = logs_CV.exp_()  # d loss / d logits = softmax - onehot
            grad_CV.scatter_add_(1, column_C1, grad_CV.new_full((1, 1), -1.0).expand_as(column_C1))
            grad_CV = grad_CV.mul_(learned_C1).to(hidden_ND.dtype)
            grad_ND[part] = grad_CV @ weight_VD
            if learn_head:
                grad_VD += grad_CV.T @ hidden_CD
        ctx.save_for_backward(grad_ND, grad_VD.to(weight_VD.dtype))
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_ND, grad_VD = ctx.saved_tensors
        return (grad_ND * grads[0]).to(grad_ND.dtype), (grad_VD * grads[0]).to(grad_VD.dtype), None
