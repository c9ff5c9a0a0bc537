"""P(tag) of documents: calibration, how early it rises, by category and position, and a threshold.

Positions are those after each token of a document. `pack` inserts the tag before words only, so P(tag) is
compared with the rate of the tag at the ends of words. All intervals are 95% and resample groups (rates.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from safety_ray.core.records import stable_hash
from safety_ray.evaluate import rates
from safety_ray.evaluate.documents import Document
from safety_ray.evaluate.metrics import auroc_interval
from safety_ray.evaluate.reading import Reading

Floats = npt.NDArray[np.float64]
BINS = 10
WORDS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of words at which the separation of the beginnings of documents is measured."""
FEWEST_DOCUMENTS = 10
"""A number of words or a category with fewer documents of a kind is left out."""


@dataclass(frozen=True, slots=True)
class Signal:
    """P(tag) after each token of a document."""

    unsafe: bool
    group: str
    category: str | None
    p_tags: Floats
    word_end: npt.NDArray[np.bool_]
    """whether a word begins at the next token"""

    @property
    def at_word_ends(self) -> Floats:
        """P(tag) at the ends of words."""
        return self.p_tags[self.word_end]


def signals(
    documents: Sequence[Document], readings: Sequence[Reading], word_ends: Sequence[Sequence[bool]]
) -> list[Signal]:
    """Return the signal of each document that has an end of a word."""
    made = [
        Signal(d.unsafe, d.group or d.id, d.category, np.array(r.p_tags, float), np.array(ends, bool))
        for d, r, ends in zip(documents, readings, word_ends, strict=True)
        if r.p_tags and any(ends)
    ]
    return made


def signal_metrics(
    signals: Sequence[Signal], *, tag_rate: float, false_alarms: float, seed: int, resamples: int
) -> dict[str, Any]:
    """Return all measurements as JSON values; {} without documents of both kinds."""
    if len({signal.unsafe for signal in signals}) < 2:
        return {}
    bootstrap = {"seed": seed, "resamples": resamples}
    return {
        "tag_rate": tag_rate,
        "calibration": calibration(signals, tag_rate, **bootstrap),
        "positions": {
            "word_ends": separation([(s, s.at_word_ends) for s in signals], **bootstrap),
            "inside_words": separation([(s, s.p_tags[~s.word_end]) for s in signals], **bootstrap),
        },
        "by_words": [
            {"words": words, **line}
            for words in WORDS
            for line in [
                separation(
                    [(s, s.at_word_ends[:words]) for s in signals if len(s.at_word_ends) >= words],
                    **bootstrap,
                )
            ]
            if _enough(line)
        ],
        "by_category": {
            category: line
            for category in sorted({s.category for s in signals if s.unsafe and s.category is not None})
            for line in [
                separation(
                    [(s, s.at_word_ends) for s in signals if not s.unsafe or s.category == category],
                    **bootstrap,
                )
            ]
            if _enough(line)
        },
        "stop": stop_threshold(signals, false_alarms, **bootstrap),
    }


def _enough(line: dict[str, Any]) -> bool:
    return bool(line) and min(line["safe"], line["unsafe"]) >= FEWEST_DOCUMENTS


def separation(pairs: Sequence[tuple[Signal, Floats]], *, seed: int, resamples: int) -> dict[str, Any]:
    """Return the AUROC of the mean P(tag) with its interval, the means, and the numbers of documents.

    {} without documents of both kinds.
    """
    rows = [(s.unsafe, float(values.mean()), s.group) for s, values in pairs if len(values)]
    unsafe = [row[0] for row in rows]
    if len(set(unsafe)) < 2:
        return {}
    means = [row[1] for row in rows]
    interval = auroc_interval(unsafe, means, [row[2] for row in rows], seed=seed, resamples=resamples)
    return {
        "auroc": round(float(roc_auc_score(unsafe, means)), 4),
        "interval": interval,
        "p_tag_safe": float(np.mean([mean for mean, kind in zip(means, unsafe, strict=True) if not kind])),
        "p_tag_unsafe": float(np.mean([mean for mean, kind in zip(means, unsafe, strict=True) if kind])),
        "safe": unsafe.count(False),
        "unsafe": unsafe.count(True),
    }


def calibration(signals: Sequence[Signal], tag_rate: float, *, seed: int, resamples: int) -> dict[str, Any]:
    """Return the reliability table of P(tag) at word ends, and the expected calibration error.

    A calibrated model gives the tag the probability `tag_rate` times the share of unsafe text among positions
    like this one. The bins have equally many positions. `error` is the mean over positions of
    |mean P(tag) - expected| of their bin; `relative` divides it by the mean expected probability. A mean of
    absolute values is above 0 by chance alone, so the error of a well calibrated model is too high, and so is
    its interval.
    """
    p_tags = np.concatenate([s.at_word_ends for s in signals])
    groups = {group: n for n, group in enumerate(dict.fromkeys(s.group for s in signals))}
    of_position = np.repeat([groups[s.group] for s in signals], [len(s.at_word_ends) for s in signals])
    unsafe = np.repeat([float(s.unsafe) for s in signals], [len(s.at_word_ends) for s in signals])
    edges = np.unique(np.quantile(p_tags, np.linspace(0, 1, BINS + 1)[1:-1]))
    of_bin = np.searchsorted(edges, p_tags, side="right")
    bins = len(edges) + 1
    cell = of_position * bins + of_bin

    def sums(values: Floats) -> Floats:
        """Sum by group and bin."""
        total: Floats = np.bincount(cell, values, len(groups) * bins).astype(float)
        return total.reshape(len(groups), bins)

    counts, predicted, expected = sums(np.ones_like(p_tags)), sums(p_tags), sums(unsafe * tag_rate)
    rng = np.random.default_rng(stable_hash(seed, "calibration"))
    errors = np.concatenate([
        np.abs(weights @ predicted - weights @ expected).sum(1) / (weights @ counts).sum(1)
        for weights in rates.gamma_samples(rng, np.ones(len(groups)), resamples)
    ])  # fmt: skip
    total = float(counts.sum())
    error = float(np.abs(predicted.sum(0) - expected.sum(0)).sum() / total)
    return {
        "error": error,
        "interval": [*rates.interval_of(error, errors)],
        "relative": error / float(expected.sum() / total) if expected.sum() else None,
        "positions": int(total),
        "bins": [
            {
                "positions": int(counts[:, n].sum()),
                "p_tag": float(predicted[:, n].sum() / counts[:, n].sum()),
                "expected": float(expected[:, n].sum() / counts[:, n].sum()),
            }
            for n in range(bins)
            if counts[:, n].sum()
        ],
    }


def stop_threshold(
    signals: Sequence[Signal], false_alarms: float, *, seed: int, resamples: int
) -> dict[str, Any]:
    """Choose the threshold of the mode `stop` on one half of the groups, and measure it on the other half.

    The threshold is the lowest at which at most the share `false_alarms` of the safe documents would be
    stopped, which are those whose highest P(tag) reaches it. {} if a half lacks safe or unsafe documents.
    """
    halves: dict[bool, list[Signal]] = {False: [], True: []}
    for signal in signals:
        halves[stable_hash(seed, "stop", signal.group) % 2 == 1].append(signal)
    validation, test = halves[False], halves[True]
    if any(len({signal.unsafe for signal in half}) < 2 for half in (validation, test)):
        return {}
    highest = np.sort([signal.p_tags.max() for signal in validation if not signal.unsafe])
    allowed = math.floor(round(false_alarms * len(highest), 9))  # 0.29 x 100 is 28.999999999999996
    # Just above the highest P(tag), of six digits, of the first safe document that must not be stopped.
    threshold = float(f"{min(max(highest[len(highest) - allowed - 1] * (1 + 1e-5), 1e-9), 1.0):.6g}")
    result: dict[str, Any] = {"threshold": threshold, "false_alarms_allowed": false_alarms}
    for name, half in (("validation", validation), ("test", test)):
        for kind, unsafe in (("safe", False), ("unsafe", True)):
            chosen = [signal for signal in half if signal.unsafe is unsafe]
            stopped = [bool(signal.p_tags.max() >= threshold) for signal in chosen]
            value = rates.rate(stopped, [signal.group for signal in chosen], seed, resamples)
            result[f"{name}_{kind}"] = {
                "stopped": round(value.value, 4),
                "interval": [round(value.low, 4), round(value.high, 4)],
                "documents": value.rows,
            }
    return result
