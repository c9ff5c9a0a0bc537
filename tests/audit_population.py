"""A population of scored documents with known labels, and samples of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from sklearn.metrics import precision_score, recall_score

from safety_ray.audit.audit import Strata
from safety_ray.audit.sampling import confusion, merge, select_ids, tally

LEVELS = np.arange(6)
# Most documents are safe and score 0; few unsafe ones hide there, and the highest score is often wrong.
SHARES = [0.70, 0.12, 0.08, 0.05, 0.03, 0.02]
TRUTH = [
    [0.90, 0.06, 0.025, 0.01, 0.003, 0.002],
    [0.45, 0.40, 0.09, 0.04, 0.01, 0.01],
    [0.25, 0.20, 0.40, 0.10, 0.03, 0.02],
    [0.15, 0.10, 0.15, 0.45, 0.10, 0.05],
    [0.10, 0.05, 0.10, 0.15, 0.50, 0.10],
    [0.30, 0.20, 0.05, 0.05, 0.10, 0.30],
]


def population(number: int) -> pa.Table:
    rng = np.random.default_rng(11)
    scores = rng.choice(6, size=number, p=SHARES)
    labels = [int(rng.choice(6, p=TRUTH[s])) for s in scores]
    texts = ["x" * (10 + 5 * s) for s in scores]
    columns = {"id": [f"d{n}" for n in range(number)], "text": texts, "score": scores.astype(np.int8)}
    return pa.table({**columns, "label": pa.array(labels, pa.int8())})


def drawn(table: pa.Table, per_score: int, seed: int, block: int = 1000) -> Strata:
    """Sample and label `table` as the stage does."""
    cut = [table.slice(n, block) for n in range(0, len(table), block)]
    sizes, ids = merge((tally(t, seed=seed, per_score=per_score, labels="label") for t in cut), per_score)
    return Strata(sizes["documents"], confusion(select_ids(table, pa.array(ids)), "label"))


def truth(table: pa.Table, threshold: int, unsafe_from: int) -> dict[str, float]:
    flagged = np.array(table.column("score")) >= threshold
    unsafe = np.array(table.column("label")) >= unsafe_from
    return {"precision": precision_score(unsafe, flagged), "recall": recall_score(unsafe, flagged)}
