"""Turn rows into rewriting tasks: rows with the messages that an engine answers.

A document that is too long for one prompt is split into several tasks, one for each chunk. All functions take
and return Arrow tables.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from safety_ray.core import dataset
from safety_ray.core.chunks import CHUNKS, CHUNKS_TYPE
from safety_ray.core.records import ENSEMBLE, Column, stable_hash, without
from safety_ray.llm import prompts
from safety_ray.llm.engine import MESSAGES, USAGE
from safety_ray.rewrite import chunking
from safety_ray.rewrite.harm import harm_name, harm_of
from safety_ray.rewrite.recipes import RECIPES, SHORT, Recipe

SOURCE, PARTS, SIMILARITY = "source", "parts", "similarity"
DOCUMENT_TASK = "document_task"
"""Column of a chunk's task: the id of the task of its document."""
PROBLEM = "problem"
"""Column of a draft: the reason why it has no text."""
CHUNK = "chunk"
"""Column of a chunk's task: its position among the chunks of its document."""
SOURCE_CHUNKS = "source_chunks"
"""Column of a document's task: its chunks with their scores, if they are known."""
REJECTED_SOURCE = Column(dataset.SOURCE, pa.string(), "the source text")
"""Column of rejected rows, for another attempt and for people; null in accepted rows."""
_TASK_COLUMNS = {
    "id": pa.string(),
    "source_id": pa.string(),
    "root_id": pa.string(),  # the web document
    "recipe": pa.string(),
    "style": pa.string(),
    "attempt": pa.int8(),  # 1 for the first
    "harm": pa.string(),  # the type of harm, if the recipe uses it
    "source_score": pa.int8(),
    SOURCE: pa.string(),
    SOURCE_CHUNKS: CHUNKS_TYPE,
    "engine": pa.string(),
    "messages": MESSAGES,
}
CHUNK_COLUMNS = {
    DOCUMENT_TASK: pa.string(),
    CHUNK: pa.int32(),
    "source_start": pa.int32(),
    "source_end": pa.int32(),
}
_SOURCE_COLUMNS = (
    *("text", "score", "probs", CHUNKS, "label", "token_count"),
    *(column.name for column in ENSEMBLE),
    *(PARTS, SIMILARITY, *USAGE),
)
"""Columns that describe the source's text, and would be wrong for the new text."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The settings that determine the tasks of an attempt."""

    seed: int
    engine: str
    """value of the column `engine`"""
    max_chars: int
    """maximum characters of a source in one prompt"""
    attempt: int = 1
    short_prompts: bool = False
    """use the short prompts of the recipes that have one"""

    def recipe(self, name: str) -> Recipe:
        """Return the recipe, with its short prompt if that is to be used."""
        return (SHORT if self.short_prompts else RECIPES)[name]


def from_documents(batch: pa.Table, recipe_of: dict[int, str], options: TaskOptions) -> pa.Table:
    """Return a task for each scored row whose score has a recipe; drop other rows."""
    names = ["id", "text", "score", *([CHUNKS] if CHUNKS in batch.column_names else [])]
    rows = [
        {"root_id": row["id"], "source_score": row["score"], "recipe": recipe_of[row["score"]], **row}
        for row in batch.select(names).to_pylist()
        if row["score"] in recipe_of
    ]
    selected = pa.array([score in recipe_of for score in batch.column("score").to_pylist()], pa.bool_())
    return _tasks(batch.filter(selected), rows, options)


def from_accepted(batch: pa.Table, recipe: str, options: TaskOptions) -> pa.Table:
    """Return a task of `recipe` for each accepted text of the recipe that it reads; drop other rows."""
    reads = RECIPES[recipe].reads
    names = ["id", "text", "root_id", "source_score", "recipe", "harm"]
    rows = [{**row, "recipe": recipe} for row in batch.select(names).to_pylist() if row["recipe"] == reads]
    selected = pa.array([name == reads for name in batch.column("recipe").to_pylist()], pa.bool_())
    return _tasks(batch.filter(selected), rows, options)


def from_rejected(batch: pa.Table, options: TaskOptions) -> pa.Table:
    """Return a task for another attempt at each rejected row, in another style."""
    names = ["source_id", "root_id", "source_score", "recipe", "harm", "style"]
    names += [SOURCE_CHUNKS, REJECTED_SOURCE.name]
    rows = [
        {
            **row,
            "id": row["source_id"],
            "text": row[REJECTED_SOURCE.name],
            CHUNKS: row[SOURCE_CHUNKS],
            "last_style": row["style"],
        }
        for row in batch.select(names).to_pylist()
    ]
    return _tasks(without(batch, REJECTED_SOURCE.name), rows, options)


def _tasks(batch: pa.Table, rows: list[dict[str, Any]], options: TaskOptions) -> pa.Table:
    tasks = [_task(row, options) for row in rows]
    batch = without(batch, *_TASK_COLUMNS, *_SOURCE_COLUMNS, *CHUNK_COLUMNS, PROBLEM)
    for name, kind in _TASK_COLUMNS.items():
        batch = batch.append_column(name, pa.array([task[name] for task in tasks], kind))
    return batch


def _task(row: dict[str, Any], options: TaskOptions) -> dict[str, Any]:
    recipe = options.recipe(row["recipe"])
    id = f"{row['id']}/{recipe.name}"
    task = {
        "id": id,
        "source_id": row["id"],
        "root_id": row["root_id"],
        "recipe": recipe.name,
        "style": recipe.choose_style(options.seed, id, options.attempt, row.get("last_style")),
        "attempt": options.attempt,
        "harm": (row.get("harm") or harm_of(row["text"] or "")) if recipe.uses_harm_type else None,
        "source_score": row["source_score"],
        SOURCE: row["text"] or "",
        SOURCE_CHUNKS: row.get(CHUNKS),
        "engine": options.engine,
    }
    if is_long(task, options.max_chars):
        return task | {"messages": None}  # its chunks get messages
    document = chunking.most_harmful_span(task[SOURCE], row.get(CHUNKS), options.max_chars)
    return task | {"messages": _messages(task, id, document, options)}


def _messages(task: dict[str, Any], id: str, document: str, options: TaskOptions) -> list[dict[str, str]]:
    recipe = options.recipe(task["recipe"])
    fields = {"style": recipe.styles[task["style"]]}
    if task["harm"]:
        fields["harm"] = harm_name(task["harm"])
    return prompts.messages(recipe.prompt, document, seed=options.seed, id=id, **fields)


def select_writer(
    batch: pa.Table, share: float, recipes: Collection[str], seed: int, template: bool
) -> pa.Table:
    """Return the engine's tasks, those of `recipes` for a `share` of the web documents, or the template's."""
    limit = int(share * 2**64)
    chosen = [
        (row["recipe"] in recipes and stable_hash(seed, "writer", row["root_id"]) < limit) is not template
        for row in batch.select(["root_id", "recipe"]).to_pylist()
    ]
    return batch.filter(pa.array(chosen, pa.bool_()))


def is_long(task: dict[str, Any], max_chars: int) -> bool:
    """Return whether the task's document is rewritten chunk by chunk."""
    return RECIPES[task["recipe"]].chunks_documents and len(task[SOURCE]) > max_chars


def select_length(batch: pa.Table, long: bool, max_chars: int) -> pa.Table:
    """Return the tasks of long documents, or the other tasks."""
    rows = batch.select(["recipe", SOURCE]).to_pylist()
    return batch.filter(pa.array([is_long(row, max_chars) == long for row in rows], pa.bool_()))


def split_documents(batch: pa.Table, options: TaskOptions) -> pa.Table:
    """Split each task into one task for each chunk of its document, all in the document's style."""
    positions: list[int] = []
    chunks: list[dict[str, Any]] = []
    for position, task in enumerate(batch.select(list(_TASK_COLUMNS)).to_pylist()):
        for n, (start, end) in enumerate(chunking.split_text(task[SOURCE], options.max_chars)):
            id, text = f"{task['id']}#{n}", task[SOURCE][start:end]
            positions.append(position)
            chunks.append(
                {"id": id, SOURCE: text, "messages": _messages(task, id, text, options)}
                | {DOCUMENT_TASK: task["id"], CHUNK: n, "source_start": start, "source_end": end}
            )
    rows = without(batch.take(pa.array(positions, pa.int64())), "id", SOURCE, "messages")
    for name, kind in (_TASK_COLUMNS | CHUNK_COLUMNS).items():
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.array([chunk[name] for chunk in chunks], kind))
    return rows


def is_chunk(id: str) -> bool:
    """Return whether `id` is that of a chunk's task."""
    return "#" in id.rsplit("/", 1)[1]
