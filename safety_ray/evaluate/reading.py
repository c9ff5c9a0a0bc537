"""What a model thinks of given texts: P(tag) after every token, and how well it predicts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_LOGITS = 1 << 25  # at most about so many logits in a batch: 128 MiB of fp32


@dataclass(frozen=True, slots=True)
class Reading:
    """One text. The log-likelihoods are sums of -log P, in nats, over all tokens but the first.

    `nll` is without the tag: over the model's probabilities of all other tokens, renormalised. The
    tag is a remark on text and no part of it, and decoding never emits it; a model that rightly
    says P(tag) = 0.3 predicts the words no worse for that. So a tagged and an untagged model can be
    compared. `nll_with_tag` is the raw one.
    """

    tokens: int
    p_tag: float  # mean over the positions after each token
    nll: float
    nll_with_tag: float


@torch.inference_mode()
def read(model: Any, texts: list[list[int]], tag_id: int) -> list[Reading]:
    """Read each text, token ids of at least one token, in one forward pass; batches by length."""
    vocabulary = model.config.get_text_config().vocab_size
    found: list[Reading | None] = [None] * len(texts)
    for batch in batches([len(text) for text in texts], max(1, _LOGITS // vocabulary)):
        for number, reading in zip(batch, _read([texts[i] for i in batch], model, tag_id), strict=True):
            found[number] = reading
    return [reading for reading in found if reading is not None]


def batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Indices in batches of at most `tokens` tokens with padding (or one text), the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    found: list[list[int]] = []
    for i in order:
        if found and (len(found[-1]) + 1) * lengths[found[-1][0]] <= tokens:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def _read(texts: list[list[int]], model: Any, tag_id: int) -> list[Reading]:
    # Padding stands on the right, where a causal model's text does not see it: no mask is needed.
    longest = max(map(len, texts))
    ids_BT = torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=model.device)
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits.float()
    all_BT = logits_BTV.logsumexp(-1)
    p_tag_BT = (logits_BTV[..., tag_id] - all_BT).exp()
    target_BT = logits_BTV[:, :-1].gather(-1, ids_BT[:, 1:, None])[..., 0]
    logits_BTV[..., tag_id] = -torch.inf
    text_BT = logits_BTV.logsumexp(-1)
    nll_BT, raw_BT = text_BT[:, :-1] - target_BT, all_BT[:, :-1] - target_BT
    return [
        Reading(
            tokens=n,
            p_tag=p_tag_BT[row, :n].double().mean().item(),
            nll=nll_BT[row, : n - 1].double().sum().item(),
            nll_with_tag=raw_BT[row, : n - 1].double().sum().item(),
        )
        for row, n in enumerate(map(len, texts))
    ]
