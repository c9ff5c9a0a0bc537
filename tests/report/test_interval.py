"""Intervals are compared with the exact Poisson interval, a bootstrap over documents, and their promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from safety_ray.report.interval import MILLION, Rate, rate


def rate_of(counts: np.ndarray, words: np.ndarray) -> Rate:
    sums = (words.sum(), words @ words, counts.sum(), counts @ counts, counts @ words)
    found = rate(len(words), *map(int, sums))
    assert found is not None
    return found


@pytest.mark.parametrize("events", [0, 1, 5, 60])
def test_rate_matches_exact_poisson_for_single_occurrences(events: int) -> None:
    counts = np.array([1] * events + [0] * (1000 - events))
    found = rate_of(counts, np.full(1000, 200))
    scale = MILLION / 200_000
    low = chi2.ppf(0.025, 2 * events) / 2 if events else 0
    exact = [events * scale, low * scale, chi2.ppf(0.975, 2 * events + 2) / 2 * scale]
    assert found == pytest.approx(exact)


def bunched(rng: np.random.Generator, documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents of which few hold many occurrences; the true rate is 2,000 per million words."""
    words = rng.integers(20, 480, documents)
    topics = rng.random(documents) < 0.1
    return rng.poisson(topics * words * 0.02), words


def test_rate_matches_bootstrap_for_clustered_occurrences() -> None:
    rng = np.random.default_rng(0)
    counts, words = bunched(rng, 3000)
    draws = rng.integers(0, 3000, (2000, 3000))
    rates = counts[draws].sum(1) / words[draws].sum(1) * MILLION
    low, high = np.quantile(rates, [0.025, 0.975])
    found = rate_of(counts, words)
    assert found.per_million == pytest.approx(counts.sum() / words.sum() * MILLION)
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.03)
    # A Poisson interval would promise far too much here.
    poisson = 2 * 1.96 * np.sqrt(counts.sum()) / words.sum() * MILLION
    assert found.high - found.low > 1.8 * poisson


@pytest.mark.parametrize("documents", [120, 400])
def test_rate_interval_has_nominal_coverage(documents: int) -> None:
    rng = np.random.default_rng(1)
    found = [rate_of(*bunched(rng, documents)) for _ in range(1500)]
    held = np.mean([one.low <= 2000 <= one.high for one in found])
    assert 0.92 < held <= 0.99


def test_rate_handles_empty_input_and_single_document() -> None:
    assert rate(0, 0, 0, 0, 0, 0) is None
    assert rate(3, 0, 0, 0, 0, 0) is None
    one = rate(1, 100, 10_000, 3, 9, 300)
    assert one is not None
    assert one.low < one.per_million == 30_000 < one.high
