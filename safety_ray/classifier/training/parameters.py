"""All parameters of an encoder and its head, trained as they are used (paper, section 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from safety_ray.classifier.calibration import range_loss
from safety_ray.classifier.classifier import Head, deciding
from safety_ray.classifier.encoder import Encoder
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.progress import Line
from safety_ray.core.records import stable_hash

Chunks = list[list[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """How all parameters are trained after the head; the defaults are the paper's for large encoders."""

    epochs: int = setting("passes over the texts; 0: the encoder stays as it is", default=0)
    batch: int = setting("texts in a step", default=8)
    lr: float = setting("learning rate of AdamW; the paper takes 1e-5 for small encoders", default=1e-6)
    weight_decay: float = setting("weight decay of AdamW", default=1e-3)
    max_grad_norm: float = setting("longer gradients are shortened to this norm", default=1.0)

    def __post_init__(self) -> None:
        if (
            self.epochs < 0
            or self.batch < 1
            or self.lr <= 0
            or self.weight_decay < 0
            or self.max_grad_norm <= 0
        ):
            raise UserError(
                "parameters: batch, lr, max_grad_norm must be positive; epochs, weight_decay not negative."
            )


def train(
    encoder: Encoder, head: Head, texts: list[Chunks], low: torch.Tensor, high: torch.Tensor,
    config: Parameters, *, unsafe_weight: float, seed: int,
) -> tuple[Head, list[float]]:  # fmt: skip
    """Train `encoder` in place; returns the new head and the mean loss of each epoch.

    `texts` are chunks of ids, `low` and `high` (texts,) the range of each text's score. `encoder` must
    be an exact one: steps of 1e-6 are lost in bfloat16.
    """
    device, network = encoder.device, encoder.model
    weight = torch.nn.Parameter(head.weight.to(device))
    bias = torch.nn.Parameter(head.bias.to(device))
    parameters = [weight, bias, *network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    low, high = low.to(device), high.to(device)
    means: list[float] = []
    line = Line("fit", config.epochs * len(texts), "texts")
    torch.manual_seed(seed)  # dropout
    for epoch in range(config.epochs):
        order = sorted(range(len(texts)), key=lambda i: stable_hash(seed, epoch, i))
        total = 0.0
        for at in range(0, len(order), config.batch):
            batch = order[at : at + config.batch]
            loss = batch_loss(
                encoder, Head(weight, bias), [texts[i] for i in batch], low[batch], high[batch], unsafe_weight
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            total += float(loss.detach()) * len(batch)
            line.show(epoch * len(texts) + at + len(batch), f"loss {total / (at + len(batch)):.4f}")
        means.append(round(total / len(texts), 4))
    line.show(config.epochs * len(texts), f"loss {means[-1]:.4f}", final=True)
    network.eval()
    return Head(weight.detach().cpu(), bias.detach().cpu()), means


def batch_loss(
    encoder: Encoder,
    head: Head,
    texts: list[Chunks],
    low: torch.Tensor,
    high: torch.Tensor,
    unsafe_weight: float,
) -> torch.Tensor:
    """Weighted mean loss of `texts`, each through the chunk that decides its score.

    A maximum passes its gradient to the one chunk that wins it. So it is found first, without
    gradients and without dropout, and memory does not grow with a text's length.
    """
    encoder.model.eval()
    chosen = [chunks[_deciding(encoder, head, chunks)] if len(chunks) > 1 else chunks[0] for chunks in texts]
    encoder.model.train()
    logits = head(encoder.pooled(*encoder.padded(chosen)))
    weight = torch.where(low > 0, unsafe_weight, 1.0)
    return (weight * range_loss(logits, low, high)).sum() / weight.sum()


@torch.no_grad()
def _deciding(encoder: Encoder, head: Head, chunks: Chunks) -> int:
    embedded = encoder.embed(chunks).to(head.weight.device)
    return deciding(head(embedded).softmax(-1))
