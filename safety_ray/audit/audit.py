"""Precision, recall and the cost of a filter, estimated from a labelled sample of scored documents.

The sample is stratified by score. The share of unsafe documents of each score is weighted by the number of
documents with that score in the whole dataset. An independent audit of the classifier published by the
paper's authors found that 61 % of its score-5 documents were 0-1; this audit finds such errors.

Intervals: the number of unsafe documents outside the sample is sampled from the Jeffreys posterior of each
stratum (Beta(x + ½, n - x + ½), then binomial over the documents that were not sampled), and precision and
recall are computed from the sums. Unlike a bootstrap, this gives a positive width if no sampled document is
unsafe, and no width if every document is labelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES, stable_hash

CONFIDENCE = 0.95
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Strata:
    """Document counts of the dataset by score, and the labels of the sampled documents."""

    documents: npt.NDArray[np.int64]
    """(6,) number of documents of each score in the dataset"""
    labels: npt.NDArray[np.int64]
    """(6, 6) number of sampled documents by score and label"""

    @property
    def sampled(self) -> npt.NDArray[np.int64]:
        counts: npt.NDArray[np.int64] = self.labels.sum(1)
        return counts

    def check(self) -> None:
        """Raise UserError if a score has documents, but none with a label."""
        for score in np.flatnonzero((self.documents > 0) & (self.sampled == 0)):
            raise UserError(
                f"none of the {self.documents[score]:,} documents with score {score} has a label; "
                "label some documents of each score."
            )


def estimate(strata: Strata, is_hit: Flags, flagged: Flags, *, draws: int, seed: int) -> dict[str, Any]:
    """Return precision and recall of the scores `flagged` (6,) for documents with a label in `is_hit` (6,).

    Each has a 95 % interval. A value is None if it is not defined, because nothing is flagged or nothing is
    a hit.
    """
    n = strata.sampled
    hits = strata.labels[:, is_hit].sum(1)
    share = hits / np.maximum(n, 1)
    rng = np.random.default_rng(stable_hash(seed, "audit", is_hit.tolist(), flagged.tolist()))
    probability = rng.beta(hits + 0.5, n - hits + 0.5, size=(draws, SCORES))
    drawn_hits = hits + rng.binomial(np.maximum(strata.documents - n, 0), probability)
    drawn_hits[:, strata.documents == 0] = 0
    expected_hits = share * strata.documents
    all_flagged, flagged_hits = int(strata.documents[flagged].sum()), float(expected_hits[flagged].sum())
    drawn_flagged_hits = drawn_hits[:, flagged].sum(1)
    return {
        **_ratio("precision", flagged_hits, all_flagged, drawn_flagged_hits, np.full(draws, all_flagged)),
        **_ratio("recall", flagged_hits, float(expected_hits.sum()), drawn_flagged_hits, drawn_hits.sum(1)),
    }


def _ratio(
    name: str,
    numerator: float,
    denominator: float,
    numerators: npt.NDArray[Any],
    denominators: npt.NDArray[Any],
) -> dict[str, Any]:
    """Return the ratio and its interval from the draws `numerators` and `denominators` (draws,)."""
    if not denominator:
        return {name: None, f"{name}_interval": None}
    value, defined = numerator / denominator, denominators > 0
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(numerators[defined] / denominators[defined], [tail, 1 - tail])
    # The posterior never reaches 0 or 1, but the estimate can.
    return {
        name: round(value, 4),
        f"{name}_interval": [round(float(min(low, value)), 4), round(float(max(high, value)), 4)],
    }


def per_score(strata: Strata, unsafe_from: int, **settings: int) -> list[dict[str, Any]]:
    """Return for each score: number of documents, their labels, precision and recall, share of unsafe ones.

    `settings` are the `draws` and `seed` of `estimate`.
    """
    levels = np.arange(SCORES)
    rows = []
    for score in range(SCORES):
        exact = estimate(strata, levels == score, levels == score, **settings)
        unsafe = estimate(strata, levels >= unsafe_from, levels == score, **settings)
        rows.append(
            {
                "score": score,
                "documents": int(strata.documents[score]),
                "sampled": int(strata.sampled[score]),
                "labels": strata.labels[score].tolist(),
                "unsafe": unsafe["precision"],
                "unsafe_interval": unsafe["precision_interval"],
                **exact,
            }
        )
    return rows


def per_threshold(
    strata: Strata, unsafe_from: int, sizes: dict[str, npt.NDArray[np.int64]], **settings: int
) -> list[dict[str, Any]]:
    """Return for each threshold: precision and recall for unsafe documents, and the shares that a filter
    removes.

    `sizes` are additional (6,) totals by score (characters, tokens). Their removed shares, like that of
    documents, are counted in the whole dataset. `safe_lost`, the removed share of documents below
    `unsafe_from`, is estimated.
    """
    levels = np.arange(SCORES)
    rows = []
    for threshold in range(1, SCORES):
        flagged = levels >= threshold
        safe = estimate(strata, levels < unsafe_from, flagged, **settings)
        removed = {
            f"removed_{name}": round(float(size[flagged].sum() / size.sum()), 4) if size.sum() else None
            for name, size in {"documents": strata.documents, **sizes}.items()
        }
        rows.append(
            {
                "threshold": threshold,
                **estimate(strata, levels >= unsafe_from, flagged, **settings),
                **removed,
                "safe_lost": safe["recall"],
                "safe_lost_interval": safe["recall_interval"],
            }
        )
    return rows


def choose(rows: list[dict[str, Any]], wanted: dict[str, float]) -> tuple[int | None, bool]:
    """Return (threshold, sure) for the minimum recall or precision in `wanted`; (None, False) if none
    reaches it.

    For a recall this is the highest threshold, which removes the least; for a precision the lowest one,
    which finds the most. `sure` is true if the lower end of the interval reaches the minimum as well.
    """
    for name, minimum in wanted.items():
        sufficient = [row for row in rows if row[name] is not None and row[name] >= minimum]
        if sufficient:
            best = sufficient[-1] if name == "recall" else sufficient[0]
            return best["threshold"], best[f"{name}_interval"][0] >= minimum
    return None, False
