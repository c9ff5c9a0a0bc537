"""Combine the scores of the classifier and the judge into one.

The paper takes the higher one, for recall (section 1).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.chunks import CHUNKS
from safety_ray.core.records import ENSEMBLE, SCORED, without
from safety_ray.judge.rubric import Names

JUDGED = Names("judge_score", "judge_reason", "judged_by", "judge_shortened")
ADDED = tuple(c.name for c in (*SCORED, *ENSEMBLE) if c.name not in ("id", "text"))
"""Every column that scoring may add."""


def keep_classifier_score(batch: pa.Table) -> pa.Table:
    """Copy `score` to `classifier_score`, because `score` becomes the ensemble's score."""
    return without(batch, "classifier_score").append_column("classifier_score", batch.column("score"))


def combine(batch: pa.Table, ensemble: str, judge_only: bool) -> pa.Table:
    """Set `score` of judged rows: the `max` of both scores, or that of the `classifier` or the `judge`.

    With `judge_only`, `probs` and `scored_chunks` are null. A row without a judgement gets a null score and
    is rejected.
    """
    judge = batch.column(JUDGED.score)
    if judge_only:
        for column in (c for c in SCORED if c.name in ("probs", CHUNKS)):
            batch = without(batch, column.name)
            batch = batch.append_column(column.name, pa.nulls(len(batch), column.type))
        batch, score = without(batch, "classifier_score"), judge
    else:
        classifier = batch.column("classifier_score")
        chosen = {
            "max": pc.max_element_wise(classifier, judge),
            "classifier": pc.coalesce(classifier, judge),  # null: the classifier rejected the row
            "judge": judge,
        }[ensemble]
        score = pc.if_else(pc.is_valid(judge), chosen, pa.scalar(None, pa.int8()))
    return without(batch, "score").append_column("score", score)
