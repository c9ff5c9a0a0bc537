"""Scored documents for tests of tasks and texts, and the replies of the template engine."""

from __future__ import annotations

import pyarrow as pa

from jobs.corpus import documents
from safety_ray.corpus.seeds import load_seeds
from safety_ray.llm.engine import Outcome, with_outcomes
from safety_ray.rewrite import drafts
from safety_ray.rewrite.recipes import write_from_template
from safety_ray.rewrite.tasks import TaskOptions

RECIPE_OF = {1: "rephrase", 2: "rephrase", 3: "rephrase", 4: "refuse", 5: "refuse"}
STYLES = {
    # The seven styles that the paper publishes (section 2), and five in their spirit.
    "rephrase": {
        *("podcast", "textbook_chapter", "teacher_script", "ted_talk", "parent_child", "two_friends"),
        *("kids_video", "museum_tour", "school_newspaper", "question_sheet", "letter", "story_circle"),
    },
    "refuse": {"casual", "polite", "urgent", "curious", "persuasive", "blunt"},
    "moralize": {"explainer", "family", "classroom", "editorial", "guide"},
}
"""The styles that are shipped. Others may be added."""


def labelled_documents() -> pa.Table:
    """Return one document of each seed, with its label as score."""
    rows = [
        {"id": r["id"], "text": r["text"], "score": r["label"], "url": r["url"], "label": r["label"]}
        for r in documents(len(load_seeds()), 0)
    ]
    types = {
        "id": pa.string(),
        "text": pa.string(),
        "score": pa.int8(),
        "url": pa.string(),
        "label": pa.int8(),
    }
    return pa.Table.from_pylist(rows, pa.schema(list(types.items())))


def options(seed: int, max_chars: int = 12_000, attempt: int = 1) -> TaskOptions:
    return TaskOptions(seed, "template", max_chars, attempt)


def drafts_from_template(tasks: pa.Table, seed: int) -> pa.Table:
    """Return the drafts of the template engine."""
    outcomes = [Outcome(write_from_template(row, seed)) for row in tasks.to_pylist()]
    return drafts.parse_replies(with_outcomes(tasks, outcomes))
