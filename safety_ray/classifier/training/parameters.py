"""Training of all parameters of an encoder and its head (paper, section 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from safety_ray.classifier.calibration import range_loss
from safety_ray.classifier.classifier import Head, deciding_chunk
from safety_ray.classifier.encoder import Encoder
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.progress import Line
from safety_ray.core.records import stable_hash

Chunks = list[list[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """Settings of the training of all parameters; the defaults are the paper's for large encoders."""

    epochs: int = setting("passes over the texts; 0: train only the head", default=0)
    batch: int = setting("texts per step", default=8)
    lr: float = setting("learning rate of AdamW; the paper uses 1e-5 for small encoders", default=1e-6)
    weight_decay: float = setting("weight decay of AdamW", default=1e-3)
    max_grad_norm: float = setting("maximum norm of the gradient, which is clipped to it", default=1.0)

    def __post_init__(self) -> None:
        if (
            self.epochs < 0
            or self.batch < 1
            or self.lr <= 0
            or self.weight_decay < 0
            or self.max_grad_norm <= 0
        ):
            raise UserError(
                "parameters: batch, lr, max_grad_norm must be positive; epochs, weight_decay 0 or positive."
            )


def train(
    encoder: Encoder, head: Head, texts: list[Chunks], low: torch.Tensor, high: torch.Tensor,
    config: Parameters, *, unsafe_weight: float, seed: int,
) -> tuple[Head, list[float]]:  # fmt: skip
    """Train `encoder` in place. Return the new head and the mean loss of each epoch.

    `texts` are chunks of token ids, `low` and `high` (texts,) the range of each text's score. `encoder`
    must be created with `exact=True`, because bfloat16 cannot represent steps of 1e-6.
    """
    device, network = encoder.device, encoder.model
    weight = torch.nn.Parameter(head.weight.to(device))
    bias = torch.nn.Parameter(head.bias.to(device))
    parameters = [weight, bias, *network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    low, high = low.to(device), high.to(device)
    mean_losses: list[float] = []
    line = Line("fit", config.epochs * len(texts), "texts", first=0, saved=False)
    torch.manual_seed(seed)  # dropout
    for epoch in range(config.epochs):
        order = sorted(range(len(texts)), key=lambda i: stable_hash(seed, epoch, i))
        total = 0.0
        for start in range(0, len(order), config.batch):
            batch = order[start : start + config.batch]
            loss = batch_loss(
                encoder, Head(weight, bias), [texts[i] for i in batch], low[batch], high[batch], unsafe_weight
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            total += float(loss.detach()) * len(batch)
            done = start + len(batch)
            line.show(epoch * len(texts) + done, f"loss {total / done:.4f}")
        mean_losses.append(round(total / len(texts), 4))
    line.show(config.epochs * len(texts), f"loss {mean_losses[-1]:.4f}", final=True)
    network.eval()
    return Head(weight.detach().cpu(), bias.detach().cpu()), mean_losses


def batch_loss(
    encoder: Encoder,
    head: Head,
    texts: list[Chunks],
    low: torch.Tensor,
    high: torch.Tensor,
    unsafe_weight: float,
) -> torch.Tensor:
    """Return the weighted mean loss of `texts`, each computed from the chunk that decides its score.

    The gradient of a maximum reaches only one chunk. This chunk is found first, without gradients and
    dropout, so memory does not grow with the length of a text.
    """
    encoder.model.eval()
    decisive = [chunks[_deciding_chunk(encoder, head, chunks)] for chunks in texts]
    encoder.model.train()
    logits = head(encoder.pooled(*encoder.padded(decisive)))
    weight = torch.where(low > 0, unsafe_weight, 1.0)
    return (weight * range_loss(logits, low, high)).sum() / weight.sum()


@torch.no_grad()
def _deciding_chunk(encoder: Encoder, head: Head, chunks: Chunks) -> int:
    if len(chunks) == 1:
        return 0
    embedded = encoder.embed(chunks).to(head.weight.device)
    return deciding_chunk(head(embedded).softmax(-1))
