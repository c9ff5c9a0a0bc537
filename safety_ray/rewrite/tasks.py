"""From rows to rewriting tasks, and from replies to rows: plain functions of Arrow tables."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from safety_ray import prompts
from safety_ray.engine import ERROR, REPLY
from safety_ray.records import ENSEMBLE, REWRITTEN
from safety_ray.rewrite.harm import harm_name, harm_of
from safety_ray.rewrite.recipes import RECIPES, verdict
from safety_ray.rewrite.styles import describe, draw

PROBLEM = "problem"
_ADDED = {
    "id": pa.string(),
    "source_id": pa.string(),
    "root_id": pa.string(),  # the web document
    "recipe": pa.string(),
    "style": pa.string(),
    "harm": pa.string(),  # the kind of harm, told by words; null for rephrase
    "source_score": pa.int8(),
    "source": pa.string(),
    "engine": pa.string(),
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
}
_OF_THE_SOURCE = (
    *("text", "score", "probs", "chunk_scores", "label", "token_count"),
    *(column.name for column in ENSEMBLE),
)
"""Columns that describe the source's text and would be untrue beside the new one."""


def from_documents(batch: pa.Table, recipe_of: dict[int, str], seed: int, engine: str) -> pa.Table:
    """One task for each scored row whose score has a recipe; rows of other scores go."""
    rows = [
        {"root_id": row["id"], "source_score": row["score"], "recipe": recipe_of[row["score"]], **row}
        for row in batch.select(["id", "text", "score"]).to_pylist()
        if row["score"] in recipe_of
    ]
    wanted = pa.array([score in recipe_of for score in batch.column("score").to_pylist()], pa.bool_())
    return _tasks(batch.filter(wanted), rows, seed, engine)


def from_refusals(batch: pa.Table, seed: int, engine: str) -> pa.Table:
    """One moralize task for each accepted refusal; other rows go."""
    names = ["id", "text", "root_id", "source_score", "recipe", "harm"]
    rows = [
        {**row, "recipe": "moralize"} for row in batch.select(names).to_pylist() if row["recipe"] == "refuse"
    ]
    wanted = pa.array([recipe == "refuse" for recipe in batch.column("recipe").to_pylist()], pa.bool_())
    return _tasks(batch.filter(wanted), rows, seed, engine)


def _tasks(kept: pa.Table, rows: list[dict[str, Any]], seed: int, engine: str) -> pa.Table:
    added = [_task(row, seed, engine) for row in rows]
    gone = {*_ADDED, *_OF_THE_SOURCE}
    kept = kept.drop_columns([name for name in kept.column_names if name in gone])
    for name, kind in _ADDED.items():
        kept = kept.append_column(name, pa.array([row[name] for row in added], kind))
    return kept


def _task(row: dict[str, Any], seed: int, engine: str) -> dict[str, Any]:
    recipe = row["recipe"]
    id = f"{row['id']}/{recipe}"
    style = draw(recipe, seed, id)
    harm = None if recipe == "rephrase" else row.get("harm") or harm_of(row["text"])
    fields = {"style": describe(recipe, style)} | (
        {"harm": harm_name(harm)} if recipe == "refuse" and harm else {}
    )
    return {
        "id": id,
        "source_id": row["id"],
        "root_id": row["root_id"],
        "recipe": recipe,
        "style": style,
        "harm": harm,
        "source_score": row["source_score"],
        "source": row["text"],
        "engine": engine,
        "messages": prompts.messages(recipe, row["text"], seed=seed, id=id, **fields),
    }


def read_replies(batch: pa.Table, seed: int) -> pa.Table:
    """`text` from `reply`, and `problem` where there is none; a reply that does not parse stays as text."""
    texts: list[str] = []
    problems: list[str | None] = []
    names = ["id", "recipe", REPLY, ERROR]
    for row in batch.select(names).to_pylist():
        text, problem = row[REPLY] or "", row[ERROR] and f"engine: {row[ERROR]}"
        if problem is None:
            try:
                text = RECIPES[row["recipe"]].text(text, seed, row["id"])
            except ValueError as reason:
                problem = str(reason)
        texts.append(text)
        problems.append(problem)
    batch = batch.drop_columns([REPLY, ERROR, "messages"])
    batch = batch.append_column("text", pa.array(texts, pa.string()))
    return batch.append_column(PROBLEM, pa.array(problems, pa.string()))


def settle(batch: pa.Table, reason_column: str) -> pa.Table:
    """Scored drafts to rows of the schema `REWRITTEN`, with the reason where a draft is not kept."""
    reasons = [
        row[PROBLEM] or verdict(row["text"], row["source"], row["score"], row["source_score"])
        for row in batch.select([PROBLEM, "text", "source", "score", "source_score"]).to_pylist()
    ]
    first = [column.name for column in REWRITTEN] + ["root_id", "harm", "engine"]
    others = [n for n in batch.column_names if n not in {*first, PROBLEM, "source", reason_column}]
    return batch.select(first + others).append_column(reason_column, pa.array(reasons, pa.string()))
