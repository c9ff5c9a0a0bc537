"""Metrics of readings: how well P(tag) separates unsafe from safe documents, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash
from safety_ray.evaluate.documents import Document
from safety_ray.evaluate.rates import PRIOR, Floats, gamma_samples, interval_of
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

    As for rates, half a group of each extreme outcome is added to each resample, here to the safe and to the
    unsafe rows: half a group with the lowest score and half a group with the highest. Without them, scores
    that separate a few documents perfectly would have the interval 1 to 1.
    """
    label = np.asarray(labels, bool)
    # Ranks, because the added rows are below and above all others.
    rank = np.unique(np.asarray(scores, float), return_inverse=True)[1] + 1
    index = {group: n for n, group in enumerate(dict.fromkeys(groups))}
    of_row = np.array([index[group] for group in groups])
    rows = np.ones(len(rank) + 4)
    for n, kind in enumerate((False, False, True, True)):
        rows[len(rank) + n] = (label == kind).sum() / len(np.unique(of_row[label == kind]))
    of_row = np.append(of_row, np.arange(len(index), len(index) + 4))
    label = np.append(label, [False, False, True, True])
    rank = np.append(rank, [0, rank.max() + 1] * 2)
    shapes = np.array([1.0] * len(index) + [PRIOR] * 4)
    rng = np.random.default_rng(stable_hash(seed, "bootstrap"))
    samples = np.concatenate([
        weighted_auroc(weights[:, of_row] * rows, label, rank)
        for weights in gamma_samples(rng, shapes, resamples, len(of_row))
    ])  # fmt: skip
    [value] = weighted_auroc(np.append(np.ones(len(labels)), np.zeros(4))[None], label, rank)
    return [round(bound, 4) for bound in interval_of(float(value), samples)]


def weighted_auroc(weights: Floats, labels: npt.NDArray[np.bool_], ranks: npt.NDArray[np.int64]) -> Floats:
    """Return the AUROC of rows with each of several `weights` (samples, rows); ties count half."""
    order = np.argsort(ranks, kind="stable")
    starts = np.flatnonzero(np.diff(ranks[order], prepend=-1))
    weights, unsafe = weights[:, order], labels[order]
    safe_sums = np.add.reduceat(weights * ~unsafe, starts, axis=1)
    unsafe_sums = np.add.reduceat(weights * unsafe, starts, axis=1)
    below = np.cumsum(safe_sums, axis=1) - safe_sums
    wins = (unsafe_sums * (below + safe_sums / 2)).sum(axis=1)
    aurocs: Floats = wins / (unsafe_sums.sum(axis=1) * safe_sums.sum(axis=1))
    return aurocs


def perplexity(nll: list[float], tokens: list[int]) -> float | None:
    """Return exp of the mean -log P of all tokens but the first of each text; None if there are none."""
    predicted = sum(tokens) - len(tokens)
    return round(math.exp(sum(nll) / predicted), 4) if predicted else None
