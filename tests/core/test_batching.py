"""Batches of texts of similar length."""

from __future__ import annotations

import random

from safety_ray.core.batching import batches_by_length


def test_batches_by_length_cover_texts_within_token_limit() -> None:
    lengths = [random.Random(n).randint(1, 512) for n in range(500)]
    batches = batches_by_length(lengths, 1024)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 1024 for b in batches)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches_by_length([5000], 1024) == [[0]]
