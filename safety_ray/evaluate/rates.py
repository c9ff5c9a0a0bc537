"""Rates of judged answers with 95% intervals whose sampling unit is a group: a family of prompts, a document.

Answers to prompts of one family resemble each other, so rows of one group are never resampled separately. The
intervals are those of the Bayesian bootstrap (Rubin, Annals of Statistics 9, 1981): each resample weights the
groups with a sample of a flat Dirichlet distribution. Half a group of each extreme outcome is added to each
resample, which is the Jeffreys prior: with one row per group the interval of a rate is the Jeffreys interval
(Brown, Cai and DasGupta, Statistical Science 16, 2001). Without it, a rate of 0 would have the interval 0
to 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash

CONFIDENCE = 0.95
PRIOR = 0.5
"""Weight of the additional group of each extreme outcome, in groups."""

_VALUES = 2**21

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate, or a difference of rates, with its 95% interval."""

    value: float
    low: float
    high: float
    rows: int
    groups: int


def rate(flags: Sequence[bool], groups: Sequence[Hashable], seed: int, resamples: int = 10_000) -> Rate:
    """Return the share of true `flags`; `groups` has the group of each row."""
    values = np.asarray(flags, float)
    samples = _resample(values, groups, (0.0, 1.0), seed, resamples)
    return _summarize(float(values.mean()), samples, groups)


def difference(
    first: Sequence[float],
    second: Sequence[float],
    groups: Sequence[Hashable],
    seed: int,
    resamples: int = 10_000,
) -> Rate:
    """Return rate(first) - rate(second) of two decoders that answered the same prompts, prompt by prompt.

    The values are flags, or shares of the answers to a prompt.
    """
    if len(first) != len(second):
        raise UserError(f"a paired difference needs equally many rows, not {len(first)} and {len(second)}.")
    values = np.asarray(first, float) - np.asarray(second, float)
    samples = _resample(values, groups, (-1.0, 1.0), seed, resamples)
    return _summarize(float(values.mean()), samples, groups)


def corrected(
    flags: Sequence[bool],
    groups: Sequence[Hashable],
    *,
    tp: int,
    fn: int,
    fp: int,
    tn: int,
    seed: int,
    resamples: int = 10_000,
) -> Rate:
    """Return the rate that a judge without errors would find, estimated from this judge's rate and errors.

    The estimate is that of Rogan and Gladen (American Journal of Epidemiology 107, 1978), clipped to [0, 1].
    `tp`, `fn`, `fp` and `tn` count the judge's verdicts on answers with human labels. Each resample of the
    rate gets a sensitivity and a specificity from their posteriors (Jeffreys prior), so the interval includes
    the judge's uncertainty. It is valid if the judge errs on these answers as often as on the labelled ones.
    A resample that contradicts this, with a rate below the share of false alarms or above the sensitivity,
    contributes the range of rates that are possible if this error may have any value. Clipped to 0 or 1, such
    resamples would shrink the interval to one point.

    Raises UserError without positive or negative labels, and for a judge that is not better than chance.
    """
    if tp + fn == 0 or fp + tn == 0:
        raise UserError(
            f"a rate cannot be corrected for a judge that was measured on {tp + fn} positive and {fp + tn} "
            "negative answers; both must be at least 1."
        )
    sensitivity, specificity = tp / (tp + fn), tn / (fp + tn)
    if sensitivity + specificity <= 1:
        raise UserError(
            f"a rate cannot be corrected for a judge with sensitivity {sensitivity:.2f} and specificity "
            f"{specificity:.2f}: their sum must be above 1, otherwise the judge is not better than chance."
        )
    observed = np.asarray(flags, float)
    rates = _resample(observed, groups, (0.0, 1.0), seed, resamples)
    rng = np.random.default_rng(stable_hash(seed, "judge"))
    sensitivities = rng.beta(tp + PRIOR, fn + PRIOR, resamples)
    false_alarms = rng.beta(fp + PRIOR, tn + PRIOR, resamples)
    lowest = _true_rates(
        rates, np.where(rates > sensitivities, 1.0, sensitivities), np.minimum(false_alarms, rates)
    )
    highest = _true_rates(
        rates, np.maximum(sensitivities, rates), np.where(rates < false_alarms, 0.0, false_alarms)
    )
    value = (float(observed.mean()) + specificity - 1) / (sensitivity + specificity - 1)
    return _summarize(min(1.0, max(0.0, value)), lowest, groups, highest)


def _true_rates(rates: Floats, sensitivities: Floats, false_alarms: Floats) -> Floats:
    return (rates - false_alarms) / (sensitivities - false_alarms)


def _resample(
    values: Floats, groups: Sequence[Hashable], extremes: tuple[float, float], seed: int, resamples: int
) -> Floats:
    """Return the weighted means of `values` in `resamples` resamples of the groups."""
    if len(values) != len(groups) or not len(values):
        raise UserError(
            f"a rate needs at least one row and the group of each, not {len(groups)} groups "
            f"for {len(values)} rows."
        )
    index = {group: n for n, group in enumerate(dict.fromkeys(groups))}
    of_row = [index[group] for group in groups]
    sums = np.bincount(of_row, values, len(index))
    rows = np.bincount(of_row, minlength=len(index)).astype(float)
    mean_rows = rows.mean()
    rng = np.random.default_rng(stable_hash(seed, "bootstrap"))
    # A Dirichlet sample is a vector of gamma samples divided by their sum, which cancels in the ratio.
    weighted = np.concatenate([
        weights @ np.stack([sums, rows], axis=1)
        for weights in gamma_samples(rng, np.ones(len(index)), resamples)
    ])  # fmt: skip
    prior = rng.standard_gamma(PRIOR, (resamples, 2)) * mean_rows
    totals = weighted[:, 1] + prior.sum(axis=1)
    means: Floats = (weighted[:, 0] + prior @ np.array(extremes)) / totals
    return means


def gamma_samples(
    rng: np.random.Generator, shapes: Floats, number: int, columns: int = 0
) -> Iterator[Floats]:
    """Yield `number` samples of gamma distributions with `shapes`, (n, shapes) at a time.

    n is limited so that (n, shapes) and (n, columns) values need at most 16 MB each.
    """
    at_once = max(1, _VALUES // max(len(shapes), columns))
    for done in range(0, number, at_once):
        yield rng.standard_gamma(shapes, (min(at_once, number - done), len(shapes)))


def _summarize(
    value: float, samples: Floats, groups: Sequence[Hashable], highest: Floats | None = None
) -> Rate:
    low, high = interval_of(value, samples, highest)
    return Rate(value, low, high, len(groups), len(set(groups)))


def interval_of(value: float, lowest: Floats, highest: Floats | None = None) -> tuple[float, float]:
    """Return the 95% interval of `value` from resamples, which are ranges if `highest` is given.

    It includes the value: a central interval of a posterior excludes a rate of exactly 0 or 1.
    """
    tail = (1 - CONFIDENCE) / 2
    low = float(np.quantile(lowest, tail))
    high = float(np.quantile(lowest if highest is None else highest, 1 - tail))
    return min(low, value), max(high, value)
