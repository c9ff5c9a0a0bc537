"""Occurrences per million words and shares, with confidence intervals whose sampling unit is the document.

A rate is a ratio R = Σc / Σw over documents with w words and c occurrences. Occurrences are clustered (one
page on voting fraud has ten), so they are not a Poisson count; documents are the units that were sampled. The
linearized variance of the ratio estimator (Cochran, Sampling Techniques, 1977, section 2.11) needs only five
sums. The interval is the gamma interval of Fay and Feuer (Statistics in Medicine 16, 1997), which is valid
for few and for no occurrences, and which equals the exact Poisson interval (Garwood, 1936) if every
occurrence is in a document of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from scipy.special import betaincinv, gammaincinv  # type: ignore[import-untyped,unused-ignore]

MILLION = 1_000_000
CONFIDENCE = 0.95
METHOD = (
    "The sampling unit of the 95% intervals is the document: linearized variance of the ratio estimator "
    "(at least that of independent occurrences), gamma interval of Fay and Feuer (1997). If fewer than about "
    "ten documents contain most occurrences, the intervals are too narrow. They describe sampling error, not "
    "errors of the n-gram lists. Shares of documents have exact binomial intervals (Clopper and Pearson, "
    "1934)."
)
FEW = 10
"""A percentage of fewer hits is uncertain: it is shown with its interval, or not at all."""


class Rate(NamedTuple):
    per_million: float
    low: float
    high: float


def estimate_rate(
    documents: int, words: int, words_squared: int, count: int, square: int, product: int
) -> Rate | None:
    """Return the occurrences per million words with a 95% interval, or None without words.

    `documents` n, `words` Σw, `words_squared` Σw², `count` Σc, `square` Σc², `product` Σcw.
    """
    if words == 0:
        return None
    rate = count / words
    step = 1 / words  # the rate of one occurrence
    variance = rate * step
    if documents > 1:
        residuals = (square - 2 * rate * product + rate * rate * words_squared) / words**2
        # At least that of independent occurrences: a few documents can be similar by chance.
        variance = max(variance, residuals * documents / (documents - 1))
    tail = (1 - CONFIDENCE) / 2
    low = variance / rate * gammaincinv(rate * rate / variance, tail) if count else 0.0
    scale = (variance + step * step) / (rate + step)
    high = scale * gammaincinv((rate + step) / scale, 1 - tail)
    return Rate(rate * MILLION, float(low) * MILLION, float(high) * MILLION)


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Return the exact 95% interval of a share of `count` of `total` documents."""
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return low, high
