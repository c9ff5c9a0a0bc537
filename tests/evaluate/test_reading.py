"""Readings compared with a computation of one text and one token at a time, and metrics of readings."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safety_ray.core.errors import UserError
from safety_ray.evaluate import metrics
from safety_ray.evaluate.documents import Document
from safety_ray.evaluate.reading import Reading, read

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


@torch.no_grad()
def test_reading_without_tag_matches_transformers_loss(llama: LlamaForCausalLM) -> None:
    text = [5, 6, 7, 4, 8, 9]
    [reading] = read(llama, [text], None)
    ids = torch.tensor([text])
    loss = llama(input_ids=ids, labels=ids).loss.item() * (len(text) - 1)
    assert reading.p_tag is None
    assert reading.nll == reading.nll_with_tag == pytest.approx(loss, abs=1e-3)


def documents(safe: list[Reading], unsafe: list[Reading], groups: int = 0) -> list[Document]:
    """One document per reading; of `groups` families if given."""
    kinds = [False] * len(safe) + [True] * len(unsafe)
    return [
        Document(str(n), "", kind, "web", group=str(n % groups) if groups else str(n))
        for n, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_reading_auroc_equals_share_of_ordered_pairs(seed: int) -> None:
    rng = random.Random(seed)
    safe, unsafe = (
        [Reading(5, rng.randrange(4) / 10, 9.0, 9.5) for _ in range(rng.randint(1, 12))] for _ in range(2)
    )
    pairs = [(u.p_tag > s.p_tag) + (u.p_tag == s.p_tag) / 2 for u in unsafe for s in safe]
    values = metrics.reading_metrics(documents(safe, unsafe), [*safe, *unsafe], seed=seed, resamples=200)
    assert values["p_tag_auroc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-4)
    assert values["p_tag_auroc/web"] == values["p_tag_auroc"]
    low, high = values["p_tag_auroc_interval"]
    assert 0 <= low <= high <= 1
    assert values["perplexity_safe"] == pytest.approx(math.exp(9.0 / 4), abs=1e-4)
    assert values["perplexity_safe"] == values["perplexity_unsafe"] == values["perplexity/web"]
    assert values["perplexity_safe_with_tag"] == pytest.approx(math.exp(9.5 / 4), abs=1e-4)


def test_reading_metrics_without_tag_have_perplexity_only() -> None:
    readings = [Reading(5, None, 9.0, 9.0)] * 2
    values = metrics.reading_metrics(documents(readings[:1], readings[1:]), readings, seed=0, resamples=9)
    assert set(values) == {"perplexity_safe", "perplexity_unsafe", "perplexity/web"}


def test_reading_metrics_reject_output_that_is_not_finite() -> None:
    readings = [Reading(5, 0.1, 3.0, 3.0), Reading(5, math.nan, math.nan, math.nan)]
    with pytest.raises(UserError, match=r"output for 1 of 2 documents, such as '.*', is not finite"):
        metrics.reading_metrics(documents(readings[:1], readings[1:]), readings, seed=0, resamples=9)


def test_auroc_interval_matches_normal_approximation() -> None:
    """DeLong's standard error (Biometrics 44, 1988), from the variances of the placements."""
    rng = np.random.default_rng(0)
    safe, unsafe = rng.normal(0, 1, 150), rng.normal(1, 1, 150)
    wins = (unsafe[:, None] > safe[None, :]).astype(float)
    error = math.sqrt(wins.mean(1).var(ddof=1) / 150 + wins.mean(0).var(ddof=1) / 150)
    labels, scores = [False] * 150 + [True] * 150, [*safe, *unsafe]
    groups = [str(n) for n in range(300)]
    low, high = metrics.auroc_interval(labels, scores, groups, seed=0, resamples=4000)
    assert [low, high] == pytest.approx([wins.mean() - 1.96 * error, wins.mean() + 1.96 * error], abs=0.01)


@pytest.mark.parametrize(("documents", "shift"), [(3, 2.0), (5, 2.0), (10, 3.0), (10, 0.0)])
def test_auroc_interval_contains_true_value_with_few_documents(documents: int, shift: float) -> None:
    """The AUROC of two normal distributions with this distance between their means is known."""
    true = statistics.NormalDist().cdf(shift / math.sqrt(2))
    rng = np.random.default_rng(0)
    labels, groups = [False] * documents + [True] * documents, [str(n) for n in range(2 * documents)]
    contained = 0
    for seed in range(200):
        scores = [*rng.normal(0, 1, documents), *rng.normal(shift, 1, documents)]
        low, high = metrics.auroc_interval(labels, scores, groups, seed=seed, resamples=300)
        contained += low <= true <= high
    assert contained >= 160


def test_auroc_interval_of_perfect_separation_has_width() -> None:
    for documents, widest in ((1, 1.0), (10, 0.4), (100, 0.06)):
        labels, groups = [False] * documents + [True] * documents, [str(n) for n in range(2 * documents)]
        low, high = metrics.auroc_interval(labels, list(map(float, labels)), groups, seed=0, resamples=2000)
        assert high == 1
        assert 0.02 < high - low < widest


def test_auroc_interval_treats_repeated_rows_of_groups_as_one() -> None:
    rng = np.random.default_rng(1)
    labels, scores = [n % 2 == 0 for n in range(40)], [float(x) for x in rng.normal(0, 1, 40)]
    groups = [str(n) for n in range(40)]
    once = metrics.auroc_interval(labels, scores, groups, seed=0, resamples=500)
    assert metrics.auroc_interval(labels * 5, scores * 5, groups * 5, seed=0, resamples=500) == once


def test_perplexity_is_none_without_predictions() -> None:
    assert metrics.perplexity([0.0, 0.0], [1, 1]) is None
