"""How far scores can be trusted: precision, recall and what a filter costs, from a labelled sample.

The sample is stratified by score: each stratum is one score, and its share of unsafe documents is
weighted with the number of documents that have the score in the whole dataset. Of the paper's
classifier others found that 61 % of its score-5 documents were really 0-1; this shows such things.

Intervals: in every stratum the unsafe documents outside the sample are drawn from the Jeffreys
posterior (Beta(x + ½, n - x + ½), then binomial over the documents not sampled), and precision and
recall are taken of the sums. Unlike a bootstrap this knows that no hit in a hundred is not no hit in
a million, and it has no width left where every document was labelled.
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
    """The dataset by score, and the labels of what was sampled of each."""

    documents: npt.NDArray[np.int64]
    """(6,) documents of each score in the dataset"""
    labels: npt.NDArray[np.int64]
    """(6, 6) sampled documents by score and label"""

    @property
    def sampled(self) -> npt.NDArray[np.int64]:
        counts: npt.NDArray[np.int64] = self.labels.sum(1)
        return counts

    def check(self) -> None:
        """UserError where a score has documents and none of them a label."""
        for score in np.flatnonzero((self.documents > 0) & (self.sampled == 0)):
            raise UserError(
                f"of the {self.documents[score]:,} documents with score {score} none has a label, so nothing "
                "can be said of them; give labels for some of each score."
            )


def estimate(strata: Strata, is_hit: Flags, flagged: Flags, *, draws: int, seed: int) -> dict[str, Any]:
    """Precision and recall of the scores `flagged` (6,) for documents whose label is `is_hit` (6,).

    Each with a 95 % interval; None where it is not defined: nothing is flagged, or nothing a hit.
    """
    n = strata.sampled
    hits = strata.labels[:, is_hit].sum(1)
    share = hits / np.maximum(n, 1)
    rng = np.random.default_rng(stable_hash(seed, "audit", is_hit.tolist(), flagged.tolist()))
    chance = rng.beta(hits + 0.5, n - hits + 0.5, size=(draws, SCORES))
    drawn = hits + rng.binomial(np.maximum(strata.documents - n, 0), chance)
    drawn[:, strata.documents == 0] = 0
    found = share * strata.documents
    all_flagged, within = int(strata.documents[flagged].sum()), float(found[flagged].sum())
    return {
        **_figure("precision", within, all_flagged, drawn[:, flagged].sum(1), np.full(draws, all_flagged)),
        **_figure("recall", within, float(found.sum()), drawn[:, flagged].sum(1), drawn.sum(1)),
    }


def _figure(
    name: str, over: float, under: float, overs: npt.NDArray[Any], unders: npt.NDArray[Any]
) -> dict[str, Any]:
    if not under:
        return {name: None, f"{name}_interval": None}
    value, known = over / under, unders > 0
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(overs[known] / unders[known], [tail, 1 - tail])
    # The posterior of a share never reaches 0 or 1, the estimate may.
    return {
        name: round(value, 4),
        f"{name}_interval": [round(float(min(low, value)), 4), round(float(max(high, value)), 4)],
    }


def per_score(strata: Strata, unsafe_from: int, **how: int) -> list[dict[str, Any]]:
    """For each score: how many documents, what they were labelled, how many of them are unsafe."""
    levels = np.arange(SCORES)
    rows = []
    for score in range(SCORES):
        exact = estimate(strata, levels == score, levels == score, **how)
        unsafe = estimate(strata, levels >= unsafe_from, levels == score, **how)
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
    strata: Strata, unsafe_from: int, sizes: dict[str, npt.NDArray[np.int64]], **how: int
) -> list[dict[str, Any]]:
    """For each threshold: precision and recall for unsafe documents, and what a filter throws away.

    `sizes` are further (6,) totals by score (characters, tokens); their shares, like that of the
    documents, are counted in the whole dataset. `safe_lost` is estimated: the share of the documents
    below `unsafe_from` that the filter throws away.
    """
    levels = np.arange(SCORES)
    rows = []
    for threshold in range(1, SCORES):
        flagged = levels >= threshold
        safe = estimate(strata, levels < unsafe_from, flagged, **how)
        thrown = {
            f"thrown_{name}": round(float(size[flagged].sum() / size.sum()), 4) if size.sum() else None
            for name, size in {"documents": strata.documents, **sizes}.items()
        }
        rows.append(
            {
                "threshold": threshold,
                **estimate(strata, levels >= unsafe_from, flagged, **how),
                **thrown,
                "safe_lost": safe["recall"],
                "safe_lost_interval": safe["recall_interval"],
            }
        )
    return rows


def choose(rows: list[dict[str, Any]], wanted: dict[str, float]) -> tuple[int | None, bool]:
    """(threshold, sure) that reaches what is `wanted`; (None, False) where none does.

    For a recall the highest threshold, which throws the least away; for a precision the lowest one,
    which finds the most. `sure`: the lower end of the interval reaches it, too.
    """
    for name, least in wanted.items():
        reached = [row for row in rows if row[name] is not None and row[name] >= least]
        if reached:
            best = reached[-1] if name == "recall" else reached[0]
            return best["threshold"], best[f"{name}_interval"][0] >= least
    return None, False
