"""Metrics of readings: how well P(tag) separates unsafe from safe documents, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash
from safety_ray.evaluate.documents import Document
from safety_ray.evaluate.rates import CONFIDENCE
from safety_ray.evaluate.reading import Reading


def reading_metrics(
    documents: Sequence[Document], readings: Sequence[Reading], *, seed: int, resamples: int
) -> dict[str, Any]:
    """Return the metrics of all documents, and those of each source with a suffix `/<source>`.

    `p_tag_auroc` is the probability that an unsafe document has a higher mean P(tag) than a safe one; ties
    count half. It has a 95% interval, and is missing without the tag or without documents of both kinds.

    Raises UserError if the model's output is not finite.
    """
    pairs = list(zip(documents, readings, strict=True))
    bad = [d.id for d, r in pairs if not all(map(math.isfinite, (r.p_tag or 0.0, r.nll, r.nll_with_tag)))]
    if bad:
        raise UserError(
            f"the model's output for {len(bad):,} of {len(pairs):,} documents, such as '{bad[0]}', is not "
            "finite; use another checkpoint, or convert this one to bfloat16."
        )
    values = _separation(pairs, seed, resamples)
    for name, unsafe in (("safe", False), ("unsafe", True)):
        kind = [reading for document, reading in pairs if document.unsafe is unsafe]
        values[f"perplexity_{name}"] = perplexity([r.nll for r in kind], [r.tokens for r in kind])
    safe = [reading for document, reading in pairs if not document.unsafe]
    if any(reading.p_tag is not None for reading in safe):
        with_tag = perplexity([r.nll_with_tag for r in safe], [r.tokens for r in safe])
        values["perplexity_safe_with_tag"] = with_tag
    for source in sorted({d.source for d in documents if d.source is not None}):
        chosen = [(document, reading) for document, reading in pairs if document.source == source]
        separation = _separation(chosen, seed, resamples)
        values |= {f"{k}/{source}": v for k, v in separation.items() if k.startswith("p_tag_auroc")}
        values[f"perplexity/{source}"] = perplexity([r.nll for _, r in chosen], [r.tokens for _, r in chosen])
    return values


def _separation(pairs: list[tuple[Document, Reading]], seed: int, resamples: int) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score  # takes a second to import, in each training worker too

    rows = [(d.unsafe, r.p_tag, d.group or d.id) for d, r in pairs if r.p_tag is not None]
    labels, p_tags, groups = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    if len(set(labels)) < 2:
        return {}
    return {
        "p_tag_auroc": round(float(roc_auc_score(labels, p_tags)), 4),
        "p_tag_auroc_interval": auroc_interval(labels, p_tags, groups, seed=seed, resamples=resamples),
        "p_tag_safe": float(np.mean([p for p, unsafe in zip(p_tags, labels, strict=True) if not unsafe])),
        "p_tag_unsafe": float(np.mean([p for p, unsafe in zip(p_tags, labels, strict=True) if unsafe])),
    }


def auroc_interval(
    labels: Sequence[bool], scores: Sequence[float], groups: Sequence[str], *, seed: int, resamples: int
) -> list[float]:
    """Return a 95% interval of the AUROC by the Bayesian bootstrap over groups (see rates.py).

    With scores that separate both kinds perfectly, all resamples do, and the interval is 1 to 1.
    """
    score, label = np.asarray(scores, float), np.asarray(labels, bool)
    index = {group: n for n, group in enumerate(dict.fromkeys(groups))}
    of_row = np.array([index[group] for group in groups])
    member = np.zeros((len(index), len(scores)))
    member[of_row, np.arange(len(scores))] = 1
    difference = score[label][:, None] - score[~label][None, :]
    wins = (difference > 0) + 0.5 * (difference == 0)
    unsafe, safe = member[:, label], member[:, ~label]
    group_wins = unsafe @ wins @ safe.T
    rng = np.random.default_rng(stable_hash(seed, "bootstrap"))
    weights = rng.standard_gamma(1.0, (resamples, len(index)))
    totals = (weights @ unsafe.sum(axis=1)) * (weights @ safe.sum(axis=1))
    samples = ((weights @ group_wins) * weights).sum(axis=1) / totals
    tail = (1 - CONFIDENCE) / 2
    return [round(float(bound), 4) for bound in np.quantile(samples, [tail, 1 - tail])]


def perplexity(nll: list[float], tokens: list[int]) -> float | None:
    """Return exp of the mean -log P of all tokens but the first of each text; None if there are none."""
    predicted = sum(tokens) - len(tokens)
    return round(math.exp(sum(nll) / predicted), 4) if predicted else None
