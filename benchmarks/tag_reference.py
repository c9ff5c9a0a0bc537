"""AUROC of a regression on word frequencies, on the texts by which P(tag) of a model is measured.

    python -m benchmarks.tag_reference train=FOLDER/collect/data heldout=FOLDER/collect/heldout

It reads whole texts and the labels of all training texts, so it shows what the labels and words allow. A
model learns from tags before a few words, and its P(tag) is a mean over all words of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from safety_ray.core import dataset
from safety_ray.core.config import setting
from safety_ray.core.job import main
from safety_ray.evaluate import documents
from safety_ray.evaluate.metrics import auroc_interval

_FEWEST = 8  # texts of each kind in a source


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceConfig:
    """Measure a regression on word frequencies as `evaluate` measures P(tag)."""

    train: str = setting("scored texts; those with split=heldout are left out")
    heldout: str = setting("held-out texts")
    safe_up_to: int = setting("highest level of a safe text", default=2)
    unsafe_from: int = setting("lowest level of an unsafe text", default=3)
    max_documents: int = setting("number of safe and of unsafe held-out texts", default=200)
    seed: int = setting("seed of the sample and the intervals", default=0)
    resamples: int = setting("resamples for the intervals", default=10_000)


def measure(config: ReferenceConfig) -> dict[str, Any]:
    """Print a table of AUROCs. Returns them by source; the key "" has that of all texts."""
    texts, unsafe = training_texts(config)
    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    regression = LogisticRegression(C=10, max_iter=2000, class_weight="balanced")
    regression.fit(vectors.fit_transform(texts), unsafe)
    found = [
        document
        for kind in documents.choose(
            [config.heldout], safe_up_to=config.safe_up_to, unsafe_from=config.unsafe_from,
            limit=config.max_documents, seed=config.seed, source="source", group="family",
        )[:2]
        for document in kind
    ]  # fmt: skip
    values = regression.decision_function(vectors.transform([document.text for document in found]))
    print(f"{len(texts):,} training texts, {sum(unsafe):,} of them unsafe\n")
    print("| texts | safe | unsafe | AUROC |\n|---|---:|---:|---:|")
    aurocs = {}
    for source in ["", *sorted({document.source or "" for document in found})]:
        chosen = [n for n, document in enumerate(found) if source in ("", document.source)]
        labels = [found[n].unsafe for n in chosen]
        if min(labels.count(True), labels.count(False)) >= _FEWEST:
            scores, groups = [float(values[n]) for n in chosen], [found[n].group for n in chosen]
            low, high = auroc_interval(labels, scores, groups, seed=config.seed, resamples=config.resamples)
            aurocs[source] = float(roc_auc_score(labels, scores))
            numbers = f"{labels.count(False)} | {labels.count(True)}"
            print(f"| {source or 'all'} | {numbers} | {aurocs[source]:.3f} ({low:.3f}–{high:.3f}) |")
    return aurocs


def training_texts(config: ReferenceConfig) -> tuple[list[str], list[bool]]:
    """Return the texts to train on, and whether each is unsafe."""
    names = {"text", "label", "split"} & set(dataset.columns(config.train))
    rows = dataset.rows_of(config.train).to_table(columns=sorted(names)).to_pylist()
    kept = [
        row
        for row in rows
        if row.get("split") != "heldout" and not config.safe_up_to < row["label"] < config.unsafe_from
    ]
    return [row["text"] for row in kept], (
        np.array([row["label"] for row in kept]) >= config.unsafe_from
    ).tolist()


if __name__ == "__main__":
    main(ReferenceConfig, measure)
