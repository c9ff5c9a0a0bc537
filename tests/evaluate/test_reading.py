"""Readings compared with a computation of one text and one token at a time, and metrics of readings."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from transformers import LlamaConfig, LlamaForCausalLM

from safety_ray.evaluate import metrics
from safety_ray.evaluate.reading import Reading, batches, read

TAG = 4


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(shape).eval()


@torch.no_grad()
def test_reading_matches_token_by_token_computation(llama: LlamaForCausalLM) -> None:
    rng = random.Random(0)
    texts = [
        [rng.choice([t for t in range(30) if t != TAG]) for _ in range(n)] for n in (7, 1, 20, 20, 3, 60)
    ]
    for text, reading in zip(texts, read(llama, texts, TAG), strict=True):
        p_tags, nll, raw = [], 0.0, 0.0
        for position in range(1, len(text) + 1):
            row = llama(torch.tensor([text[:position]])).logits[0, -1].double().softmax(-1)
            p_tags.append(row[TAG].item())
            if position < len(text):
                p = row[text[position]].item()
                raw -= math.log(p)
                nll -= math.log(p / (1 - row[TAG].item()))
        assert reading.tokens == len(text)
        assert reading.p_tag == pytest.approx(sum(p_tags) / len(text), abs=1e-5)
        assert reading.nll == pytest.approx(nll, abs=1e-3)
        assert reading.nll_with_tag == pytest.approx(raw, abs=1e-3)


def test_reading_batches_cover_texts_within_token_limit() -> None:
    lengths = [random.Random(n).randint(1, 90) for n in range(50)]
    grouped = batches(lengths, 100)
    assert sorted(i for batch in grouped for i in batch) == list(range(50))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 100 for b in grouped)
    assert batches([500], 100) == [[0]]


@pytest.mark.parametrize("seed", range(20))
def test_reading_auroc_equals_share_of_ordered_pairs(seed: int) -> None:
    rng = random.Random(seed)
    safe, unsafe = (
        [Reading(5, rng.randrange(4) / 10, 9.0, 9.5) for _ in range(rng.randint(1, 12))] for _ in range(2)
    )
    pairs = [(u.p_tag > s.p_tag) + (u.p_tag == s.p_tag) / 2 for u in unsafe for s in safe]
    values = metrics.reading_metrics(safe, unsafe)
    assert values["p_tag_auroc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-4)
    assert values["perplexity_safe"] == pytest.approx(math.exp(9.0 / 4), abs=1e-4)
    assert values["perplexity_safe_with_tag"] == pytest.approx(math.exp(9.5 / 4), abs=1e-4)


def test_perplexity_is_none_without_predictions() -> None:
    assert metrics.perplexity([0.0, 0.0], [1, 1]) is None


def test_rate_intervals_match_scipy_bootstrap() -> None:
    rng = random.Random(0)
    rows = [
        {"beam_score": rng.choice([0, 2, 3, 5]), "safebeam_score": rng.choice([0, 0, 2, 4])}
        for _ in range(80)
    ]
    rates = metrics.rate_metrics(rows, judge_from=3, resamples=4000, seed=1)
    beam = np.array([row["beam_score"] >= 3 for row in rows], float)
    safe = np.array([row["safebeam_score"] >= 3 for row in rows], float)
    expected = {"unsafe_rate_beam": beam, "unsafe_rate_safebeam": safe, "unsafe_rate_reduction": beam - safe}
    for name, values in expected.items():
        reference = bootstrap(
            (values,), np.mean, method="percentile", n_resamples=4000, rng=2
        ).confidence_interval
        assert rates[name] == pytest.approx(values.mean(), abs=1e-4)
        assert rates[f"{name}_interval"] == pytest.approx([reference.low, reference.high], abs=0.02)
    assert rates == metrics.rate_metrics(rows, judge_from=3, resamples=4000, seed=1)


def test_rate_reduction_interval_has_zero_width_if_constant() -> None:
    """The reduction is paired: if it is the same for every prompt, it is the same for every resample."""
    rows = [{"beam_score": 5, "safebeam_score": 0}] * 10
    rates = metrics.rate_metrics(rows, judge_from=3, resamples=100, seed=0)
    assert rates["unsafe_rate_reduction_interval"] == [1.0, 1.0]
