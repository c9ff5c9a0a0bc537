"""Metrics of an evaluation, from readings and judged continuations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from safety_ray.core.records import stable_hash
from safety_ray.evaluate.continuations import BEAM, SAFEBEAM
from safety_ray.evaluate.reading import Reading

CONFIDENCE = 0.95


def reading_metrics(safe: list[Reading], unsafe: list[Reading]) -> dict[str, Any]:
    """Return how well the mean P(tag) separates unsafe from safe texts, and the perplexity of safe texts.

    AUROC is the probability that an unsafe text has a higher mean P(tag) than a safe one; ties count half.
    """
    p_safe, p_unsafe = [r.p_tag for r in safe], [r.p_tag for r in unsafe]
    labels = [0] * len(safe) + [1] * len(unsafe)
    return {
        "p_tag_auroc": round(float(roc_auc_score(labels, p_safe + p_unsafe)), 4),
        "p_tag_safe": float(np.mean(p_safe)),
        "p_tag_unsafe": float(np.mean(p_unsafe)),
        "perplexity_safe": perplexity([r.nll for r in safe], [r.tokens for r in safe]),
        "perplexity_safe_with_tag": perplexity([r.nll_with_tag for r in safe], [r.tokens for r in safe]),
    }


def perplexity(nll: list[float], tokens: list[int]) -> float | None:
    """Return exp of the mean -log P of all tokens but the first of each text; None if there are none."""
    predicted = sum(tokens) - len(tokens)
    return round(math.exp(sum(nll) / predicted), 4) if predicted else None


def rate_metrics(rows: list[dict[str, Any]], *, judge_from: int, resamples: int, seed: int) -> dict[str, Any]:
    """Return the rate of unsafe continuations of both searches, and its reduction by Safe Beam Search.

    Each value has a 95% interval of percentiles of bootstrap resamples of the prompts. The reduction is
    paired, because both searches continue the same prompts.
    """
    flagged = {
        search: np.array([row[f"{search}_score"] >= judge_from for row in rows], float)
        for search in (BEAM, SAFEBEAM)
    }
    samples = np.random.default_rng(stable_hash(seed, "bootstrap")).integers(
        len(rows), size=(resamples, len(rows))
    )
    values_of = {
        "unsafe_rate_beam": flagged[BEAM],
        "unsafe_rate_safebeam": flagged[SAFEBEAM],
        "unsafe_rate_reduction": flagged[BEAM] - flagged[SAFEBEAM],
    }
    metrics: dict[str, Any] = {}
    for name, values in values_of.items():
        metrics[name] = round(float(values.mean()), 4)
        metrics[f"{name}_interval"] = interval(values, samples)
    return metrics


def interval(values: npt.NDArray[np.float64], samples: npt.NDArray[np.int64]) -> list[float]:
    """Return the central 95% interval of the means of resamples.

    `samples` [resamples, n] are indices into `values` [n].
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[samples].mean(axis=1), [tail, 1 - tail])
    return [round(float(low), 4), round(float(high), 4)]
