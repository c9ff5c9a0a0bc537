"""AdamW, and a learning rate that warms up, stays and decays."""

from __future__ import annotations

import torch
from torch import nn

from safety_ray.train.settings import TrainingConfig


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only, not on norms and biases."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """The rate of `step` (0-based) of `steps`: linear up, flat, then 1 − √ down to 0 (Hägele et al. 2024).

    The flat middle is what lets a run be prolonged: only the decay has to be done again.
    """
    warmup, decay = round(steps * config.warmup_share), round(steps * config.decay_share)
    up = (step + 1) / warmup if step < warmup else 1.0
    left = steps - step
    down = 1 - ((decay - left + 1) / (decay + 1)) ** 0.5 if left <= decay else 1.0
    return config.lr * min(up, down)
