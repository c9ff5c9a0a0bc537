"""One score of two scorers, the classifier and the judge.

The paper takes the higher one of judge and classifier, for recall (section 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.records import ENSEMBLE, SCORED
from safety_ray.score.label import Names

if TYPE_CHECKING:
    from safety_ray.score.classifier import Prediction

JUDGED = Names("judge_score", "judge_reason", "judged_by")
ADDED = tuple(c.name for c in (*SCORED, *ENSEMBLE) if c.name not in ("id", "text"))
"""Every column that scoring may add."""


def classify(batch: pa.Table, predict: Callable[[list[str]], list[Prediction]]) -> pa.Table:
    """Return `batch` with the classifier's columns."""
    predictions = predict(batch.column("text").to_pylist())
    for column in SCORED:
        if column.name not in ("id", "text"):
            values = pa.array([getattr(p, column.name) for p in predictions], column.type)
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
        batch, score = _without(batch, "classifier_score"), judge
    else:
        own = batch.column("classifier_score")
        chosen = {"max": pc.max_element_wise(own, judge), "classifier": own, "judge": judge}[ensemble]
        score = pc.if_else(pc.is_valid(judge), chosen, pa.scalar(None, pa.int8()))
    return _without(batch, "score").append_column("score", score)


def _without(batch: pa.Table, name: str) -> pa.Table:
    return batch.drop_columns([name]) if name in batch.column_names else batch
