"""Reading of texts by a model: P(tag) after every token, and log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from safety_ray.core.batching import batches_by_length

MAX_LOGITS = 1 << 25  # logits in a batch: 128 MiB of fp32


@dataclass(frozen=True, slots=True)
class Reading:
    """Values of one text. Log-likelihoods are sums of -log P, in nats, over all tokens but the first.

    `nll` excludes the tag: the probabilities of all other tokens are renormalized. The tag annotates text,
    and decoding never emits it, so P(tag) = 0.3 does not make the prediction of words worse. `nll` therefore
    allows a comparison of models with and without a tag. `nll_with_tag` is not renormalized.
    """

    tokens: int
    p_tag: float | None  # mean over the positions after each token; None without a tag
    nll: float
    nll_with_tag: float
    p_tags: tuple[float, ...] = ()
    """P(tag) after each token; empty without a tag"""


@torch.inference_mode()
def read(model: Any, texts: list[list[int]], tag_id: int | None) -> list[Reading]:
    """Read texts of at least one token id each, in batches of similar length."""
    vocabulary = model.config.get_text_config().vocab_size
    readings: list[Reading | None] = [None] * len(texts)
    for batch in batches_by_length([len(text) for text in texts], max(1, MAX_LOGITS // vocabulary)):
        for number, reading in zip(batch, _read([texts[i] for i in batch], model, tag_id), strict=True):
            readings[number] = reading
    return [reading for reading in readings if reading is not None]


def padded(texts: list[list[int]], device: Any) -> torch.Tensor:
    """Return texts as ids [B, T], padded on the right.

    A causal model does not attend to this padding, so it needs no mask.
    """
    longest = max(map(len, texts))
    return torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=device)


def _read(texts: list[list[int]], model: Any, tag_id: int | None) -> list[Reading]:
    ids_BT = padded(texts, model.device)
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits.float()
    logsumexp_BT = logits_BTV.logsumexp(-1)
    target_BT = logits_BTV[:, :-1].gather(-1, ids_BT[:, 1:, None])[..., 0]
    p_tag_BT, without_tag_BT = None, logsumexp_BT
    if tag_id is not None:
        p_tag_BT = (logits_BTV[..., tag_id] - logsumexp_BT).exp()
        logits_BTV[..., tag_id] = -torch.inf
        without_tag_BT = logits_BTV.logsumexp(-1)
    nll_BT, raw_BT = without_tag_BT[:, :-1] - target_BT, logsumexp_BT[:, :-1] - target_BT
    return [
        Reading(
            tokens=n,
            p_tag=None if p_tag_BT is None else p_tag_BT[row, :n].double().mean().item(),
            nll=nll_BT[row, : n - 1].double().sum().item(),
            nll_with_tag=raw_BT[row, : n - 1].double().sum().item(),
            p_tags=() if p_tag_BT is None else tuple(float(f"{p:.6g}") for p in p_tag_BT[row, :n].tolist()),
        )
        for row, n in enumerate(map(len, texts))
    ]
