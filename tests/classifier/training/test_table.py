"""The chunk that decides a text's score, found for many texts together."""

from __future__ import annotations

import torch

from safety_ray.classifier.classifier import combine, deciding_chunk
from safety_ray.classifier.training.table import deciding_chunks


def test_deciding_chunks_match_per_text_computation() -> None:
    logits = torch.randn(400, 6, generator=torch.Generator().manual_seed(1)) * 2
    owner = torch.sort(torch.randint(0, 90, (400,), generator=torch.Generator().manual_seed(2)))[0]
    found = deciding_chunks(logits, owner).tolist()
    for text, chunk in zip(owner.unique().tolist(), found, strict=True):
        at = (owner == text).nonzero().flatten()
        probs = logits[at].softmax(-1)
        assert chunk == int(at[deciding_chunk(probs)])
        assert combine(probs, list(range(len(probs)))).score == int(logits[chunk].argmax())
