"""Drafts that could not be scored, because scoring them ended the worker process."""

from __future__ import annotations

import pyarrow as pa
from documents import drafts_from_template

from safety_ray.classifier.batches import reject
from safety_ray.rewrite.acceptance import Bounds
from safety_ray.rewrite.drafts import accept_drafts, note_unscored

REASON = "rejected_reason"


def test_note_unscored_makes_reason_the_problem_of_the_draft(direct: pa.Table) -> None:
    drafts = drafts_from_template(direct, 5).slice(0, 2)
    scored = reject(drafts.slice(0, 1), "it ended its worker").drop_columns([REASON])
    mixed = pa.concat_tables(
        [scored, reject(drafts.slice(1, 1), "it ended its worker")], promote_options="default"
    )
    noted = note_unscored(mixed, REASON)
    assert REASON not in noted.column_names
    assert noted.column("problem").to_pylist() == [None, "it ended its worker"]
    assert note_unscored(noted, REASON).equals(noted), "nothing to note"
    decided = accept_drafts(noted.slice(1, 1), Bounds(), REASON)
    assert decided.column(REASON).to_pylist() == ["it ended its worker"]
    assert decided.column("score").to_pylist() == [None]
