"""Intervals are compared with Jeffreys intervals, the nominal coverage and values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from safety_ray.core.errors import UserError
from safety_ray.evaluate.rates import corrected, difference, rate

SIMULATIONS = 200


def clustered(rng: np.random.Generator, groups: int, share: float) -> tuple[list[bool], list[int]]:
    """Return flags and groups of 1 to 6 rows; the groups' rates vary around `share`."""
    sizes = rng.integers(1, 7, groups)
    of_group = rng.beta(2 * share, 2 * (1 - share), groups)
    of_row = np.repeat(np.arange(groups), sizes)
    return list(rng.random(len(of_row)) < of_group[of_row]), of_row.tolist()


@pytest.mark.parametrize("flagged", [0, 1, 7, 40])
def test_rate_matches_jeffreys_interval_for_single_rows(flagged: int) -> None:
    found = rate([True] * flagged + [False] * (40 - flagged), range(40), seed=0, resamples=100_000)
    low, high = beta.ppf([0.025, 0.975], flagged + 0.5, 40 - flagged + 0.5)
    expected = (0 if flagged == 0 else low, 1 if flagged == 40 else high)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.003)
    assert (found.value, found.rows, found.groups) == (flagged / 40, 40, 40)


def test_rate_does_not_resample_rows_of_one_group() -> None:
    flags = [True] * 10 + [False] * 30
    single = rate(flags, range(40), seed=0)
    # Each group has ten equal rows, so there are as many observations as groups.
    repeated = rate([flag for flag in flags for _ in range(10)], [n // 10 for n in range(400)], seed=0)
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high), abs=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_rate_interval_has_nominal_coverage(share: float) -> None:
    rng = np.random.default_rng(0)
    rates = [rate(*clustered(rng, 60, share), seed=n, resamples=1000) for n in range(SIMULATIONS)]
    assert 0.90 <= np.mean([found.low <= share <= found.high for found in rates]) <= 0.99


def test_rate_by_rows_would_be_too_narrow() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for n in range(SIMULATIONS):
        flags, groups = clustered(rng, 60, 0.4)
        found = rate(flags, range(len(groups)), seed=n, resamples=1000)
        covered.append(found.low <= 0.4 <= found.high)
    assert np.mean(covered) < 0.90


def test_corrected_matches_value_computed_by_hand() -> None:
    # Sensitivity 0.8, specificity 0.9, observed 0.24: (0.24 + 0.9 - 1) / (0.8 + 0.9 - 1) = 0.2.
    flags = [True] * 24 + [False] * 76
    found = corrected(flags, range(100), tp=80, fn=20, fp=10, tn=90, seed=0)
    assert found.value == pytest.approx(0.2)
    observed = rate(flags, range(100), seed=0)
    # With an exact judge the interval would be the observed one, divided by 0.7.
    assert found.high - found.low > (observed.high - observed.low) / 0.7
    exact = corrected(flags, range(100), tp=8 * 10**6, fn=2 * 10**6, fp=10**6, tn=9 * 10**6, seed=0)
    bounds = ((observed.low - 0.1) / 0.7, (observed.high - 0.1) / 0.7)
    assert (exact.low, exact.high) == pytest.approx(bounds, abs=0.01)


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_corrected_interval_has_nominal_coverage(share: float) -> None:
    rng = np.random.default_rng(0)
    sensitivity, specificity = 0.8, 0.85
    covered, uncorrected = [], []
    for n in range(SIMULATIONS):
        truth, groups = clustered(rng, 60, share)
        flags = [bool(rng.random() < (sensitivity if true else 1 - specificity)) for true in truth]
        tp, tn = int(rng.binomial(80, sensitivity)), int(rng.binomial(80, specificity))
        found = corrected(flags, groups, tp=tp, fn=80 - tp, fp=80 - tn, tn=tn, seed=n, resamples=1000)
        covered.append(found.low <= share <= found.high)
        observed = rate(flags, groups, seed=n, resamples=1000)
        uncorrected.append(observed.low <= share <= observed.high)
    assert 0.90 <= np.mean(covered) <= 0.99
    assert np.mean(uncorrected) < np.mean(covered)


def test_corrected_is_clipped_without_positives() -> None:
    found = corrected([False] * 50, range(50), tp=45, fn=5, fp=10, tn=40, seed=0)
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0 < found.high < 0.2


def test_corrected_refuses_judges_that_say_nothing() -> None:
    with pytest.raises(
        UserError, match=r"sensitivity 0\.40 and specificity 0\.60: their sum must be above 1"
    ):
        corrected([True, False], range(2), tp=4, fn=6, fp=4, tn=6, seed=0)
    with pytest.raises(UserError, match=r"measured on 0 positive and 10 negative answers"):
        corrected([True, False], range(2), tp=0, fn=0, fp=1, tn=9, seed=0)


def test_difference_is_paired_and_by_groups() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for n in range(SIMULATIONS):
        first, groups = clustered(rng, 60, 0.4)
        second = [bool(flag and rng.random() < 0.75) for flag in first]  # the true difference is 0.1
        found = difference(first, second, groups, seed=n, resamples=1000)
        covered.append(found.low <= 0.1 <= found.high)
        unpaired = rate(first, groups, seed=n, resamples=1000)
        assert found.high - found.low < unpaired.high - unpaired.low
    assert 0.90 <= np.mean(covered) <= 0.99


def test_difference_of_equal_decoders_includes_zero() -> None:
    found = difference([True, False] * 20, [True, False] * 20, range(40), seed=0)
    assert found.value == 0
    assert found.low < 0 < found.high


def test_rates_refuse_rows_without_groups() -> None:
    with pytest.raises(UserError, match="not 1 groups for 2 rows"):
        rate([True, False], [0], seed=0)
    with pytest.raises(UserError, match="not 0 groups for 0 rows"):
        rate([], [], seed=0)
    with pytest.raises(UserError, match="equally many rows, not 2 and 1"):
        difference([True, False], [True], range(2), seed=0)
