"""Occurrences per million words, with an interval that takes documents as the sampling unit.

A rate is a ratio R = Σc / Σw over documents of w words and c occurrences. Occurrences come in
bunches (one page on voting fraud holds ten), so they are no Poisson count; documents are the units
that were drawn. The linearized variance of the ratio estimator (Cochran, Sampling Techniques,
1977, section 2.11) needs five sums only. Around it stands the gamma interval of Fay and Feuer
(Statistics in Medicine 16, 1997), which stays right for few occurrences and for none, and is the
exact Poisson interval (Garwood, 1936) where every occurrence has a document of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from scipy.special import gammaincinv  # type: ignore[import-untyped,unused-ignore]

MILLION = 1_000_000
CONFIDENCE = 0.95
METHOD = (
    "The 95% intervals take documents as the sampling unit: linearized variance of the ratio estimator "
    "(never below that of independent occurrences), gamma interval of Fay and Feuer (1997). Where fewer "
    "than about ten documents hold many occurrences, they are too narrow. They describe the chance of the "
    "sample, not the faults of the n-gram lists."
)


class Rate(NamedTuple):
    per_million: float
    low: float
    high: float


def rate(
    documents: int, words: int, words_squared: int, count: int, square: int, product: int
) -> Rate | None:
    """Occurrences per million words with its 95% interval; None where there are no words.

    `documents` n, `words` Σw, `words_squared` Σw², `count` Σc, `square` Σc², `product` Σcw.
    """
    if words == 0:
        return None
    r = count / words
    one = 1 / words  # what one more occurrence would add to the rate
    variance = r * one
    if documents > 1:
        spread = (square - 2 * r * product + r * r * words_squared) / words**2
        # Never narrower than for independent occurrences: few documents can look alike by chance.
        variance = max(variance, spread * documents / (documents - 1))
    tail = (1 - CONFIDENCE) / 2
    low = variance / r * gammaincinv(r * r / variance, tail) if count else 0.0
    scale = (variance + one * one) / (r + one)
    high = scale * gammaincinv((r + one) / scale, 1 - tail)
    return Rate(r * MILLION, float(low) * MILLION, float(high) * MILLION)
