"""Intervals are compared with the exact Poisson interval, a bootstrap and the nominal coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from safety_ray.report.interval import MILLION, Rate, estimate_rate, share_interval


def rate_of(counts: np.ndarray, words: np.ndarray) -> Rate:
    sums = (words.sum(), words @ words, counts.sum(), counts @ counts, counts @ words)
    rate = estimate_rate(len(words), *map(int, sums))
    assert rate is not None
    return rate


@pytest.mark.parametrize("events", [0, 1, 5, 60])
def test_rate_matches_exact_poisson_for_single_occurrences(events: int) -> None:
    counts = np.array([1] * events + [0] * (1000 - events))
    rate = rate_of(counts, np.full(1000, 200))
    scale = MILLION / 200_000
    low = chi2.ppf(0.025, 2 * events) / 2 if events else 0
    exact = [events * scale, low * scale, chi2.ppf(0.975, 2 * events + 2) / 2 * scale]
    assert rate == pytest.approx(exact)


def clustered(rng: np.random.Generator, documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Return documents of which few have many occurrences; the true rate is 2,000 per million words."""
    words = rng.integers(20, 480, documents)
    topics = rng.random(documents) < 0.1
    return rng.poisson(topics * words * 0.02), words


def test_rate_matches_bootstrap_for_clustered_occurrences() -> None:
    rng = np.random.default_rng(0)
    counts, words = clustered(rng, 3000)
    samples = rng.integers(0, 3000, (2000, 3000))
    rates = counts[samples].sum(1) / words[samples].sum(1) * MILLION
    low, high = np.quantile(rates, [0.025, 0.975])
    rate = rate_of(counts, words)
    assert rate.per_million == pytest.approx(counts.sum() / words.sum() * MILLION)
    assert (rate.low, rate.high) == pytest.approx((low, high), rel=0.03)
    # A Poisson interval would be far too narrow.
    poisson = 2 * 1.96 * np.sqrt(counts.sum()) / words.sum() * MILLION
    assert rate.high - rate.low > 1.8 * poisson


@pytest.mark.parametrize("documents", [120, 400])
def test_rate_interval_has_nominal_coverage(documents: int) -> None:
    rng = np.random.default_rng(1)
    rates = [rate_of(*clustered(rng, documents)) for _ in range(1500)]
    coverage = np.mean([rate.low <= 2000 <= rate.high for rate in rates])
    assert 0.92 < coverage <= 0.99


def test_rate_handles_empty_input_and_single_document() -> None:
    assert estimate_rate(0, 0, 0, 0, 0, 0) is None
    assert estimate_rate(3, 0, 0, 0, 0, 0) is None
    rate = estimate_rate(1, 100, 10_000, 3, 9, 300)
    assert rate is not None
    assert rate.low < rate.per_million == 30_000 < rate.high


@pytest.mark.parametrize(("count", "total"), [(0, 7), (3, 918), (9, 10), (10, 10)])
def test_share_interval_matches_exact_binomial(count: int, total: int) -> None:
    exact = binomtest(count, total).proportion_ci(method="exact")
    assert share_interval(count, total) == pytest.approx((exact.low, exact.high))
