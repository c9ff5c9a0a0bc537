"""AdamW, and a learning rate schedule with warmup, constant phase and decay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from safety_ray.train.settings import TrainingConfig


class FusedAdamW(torch.optim.AdamW):
    """AdamW whose kernel scales the gradient and skips a step on the device, as torch.amp.GradScaler does it.

    `step` divides the gradient by `grad_scale`, and changes nothing if `found_inf` is 1.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None


def adamw(model: nn.Module, config: TrainingConfig) -> FusedAdamW:
    """Return AdamW over the trainable parameters, with weight decay on matrices, not on norms and biases."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return FusedAdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Return the rate of `step` (0-based) of `steps`: linear warmup, constant, 1 − √ decay (Hägele 2024).

    Thanks to the constant phase, a run can be extended by repeating only the decay.
    """
    warmup, decay = round(steps * config.warmup_share), round(steps * config.decay_share)
    rising = (step + 1) / warmup if step < warmup else 1.0
    remaining = steps - step
    falling = 1 - ((decay - remaining + 1) / (decay + 1)) ** 0.5 if remaining <= decay else 1.0
    return config.lr * min(rising, falling)
