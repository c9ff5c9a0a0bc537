"""One score of several scorers: the first look's, the classifier's, the judge's.

The paper takes the higher one of judge and classifier, for recall (section 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.records import ENSEMBLE, SCORED, SETTLED, SETTLED_BY
from safety_ray.score.cascade import CASCADE, CLASSIFIER
from safety_ray.score.label import Names

if TYPE_CHECKING:
    from safety_ray.score.classifier import Prediction

_LOOK = "_first_look"
JUDGED = Names("judge_score", "judge_reason", "judged_by")
ADDED = tuple(c.name for c in (*SCORED, *SETTLED, *ENSEMBLE) if c.name not in ("id", "text"))
"""Every column that scoring may add."""


def look(batch: pa.Table, probs: list[list[float] | None]) -> pa.Table:
    """`batch` with what a first look says: the six probabilities of each row that it settles, else None."""
    return _without(batch, _LOOK).append_column(_LOOK, pa.array(probs, pa.list_(pa.float32())))


def classify(batch: pa.Table, predict: Callable[[list[str]], list[Prediction]]) -> pa.Table:
    """`batch` with the classifier's columns; `predict` sees the texts that no first look has settled.

    A settled row has score 0, the first look's probabilities and no chunk scores.
    """
    texts = batch.column("text").to_pylist()
    looks = batch.column(_LOOK).to_pylist() if _LOOK in batch.column_names else [None] * len(texts)
    rest = predict([text for text, probs in zip(texts, looks, strict=True) if probs is None])
    predictions = iter(rest)
    rows = []
    for probs in looks:
        if probs is not None:
            rows.append({"score": 0, "probs": probs, "chunk_scores": None, SETTLED_BY: CASCADE})
        else:
            p = next(predictions)
            rows.append(
                {"score": p.score, "probs": p.probs, "chunk_scores": p.chunk_scores, SETTLED_BY: CLASSIFIER}
            )
    batch = _without(batch, _LOOK)
    for column in (*SCORED, *SETTLED):
        if column.name not in ("id", "text"):
            values = pa.array([row[column.name] for row in rows], column.type)
            batch = _without(batch, column.name).append_column(column.name, values)
    return batch


def keep_classifiers(batch: pa.Table) -> pa.Table:
    """The classifier's score under its own name as well: `score` is going to be the ensemble's."""
    return _without(batch, "classifier_score").append_column("classifier_score", batch.column("score"))


def combine(batch: pa.Table, ensemble: str, alone: bool) -> pa.Table:
    """`score` of judged rows: the `max` of both scores, or the `classifier`'s or the `judge`'s.

    `alone`: the judge is the only scorer, and `probs` and `chunk_scores` are empty. A row without a
    judgement has no score; it is set aside.
    """
    judge = batch.column(JUDGED.score)
    if alone:
        for column in (c for c in SCORED if c.name in ("probs", "chunk_scores")):
            batch = _without(batch, column.name)
            batch = batch.append_column(column.name, pa.nulls(len(batch), column.type))
        batch, score = _without(_without(batch, "classifier_score"), SETTLED_BY), judge
    else:
        own = batch.column("classifier_score")
        chosen = {"max": pc.max_element_wise(own, judge), "classifier": own, "judge": judge}[ensemble]
        score = pc.if_else(pc.is_valid(judge), chosen, pa.scalar(None, pa.int8()))
    return _without(batch, "score").append_column("score", score)


def _without(batch: pa.Table, name: str) -> pa.Table:
    return batch.drop_columns([name]) if name in batch.column_names else batch
