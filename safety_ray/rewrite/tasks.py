"""From rows to rewriting tasks, and from replies to rows: plain functions of Arrow tables.

A task is a row with the messages that an engine answers. A document too long for the rewriter is
several tasks, which `join_parts` makes one row of again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from safety_ray.core import dataset
from safety_ray.core.records import ENSEMBLE, REWRITTEN, Column
from safety_ray.llm import prompts
from safety_ray.llm.engine import ERROR, REPLY, SECONDS, USAGE
from safety_ray.rewrite import acceptance, parse, split
from safety_ray.rewrite.harm import harm_name, harm_of
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.styles import describe, draw

PROBLEM, SOURCE, PARTS, WHOLE, SIMILARITY = "problem", "source", "parts", "whole", "similarity"
REJECTED_SOURCE = Column(dataset.SOURCE, pa.string(), "the source text")
"""Column of rejected rows, for another attempt and for people; null in accepted rows."""
PART = pa.struct(
    [
        ("source_start", pa.int32()),  # characters of the source that the part was made from
        ("source_end", pa.int32()),
        ("start", pa.int32()),  # characters of the text that it became
        ("end", pa.int32()),
    ]
)
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ADDED = {
    "id": pa.string(),
    "source_id": pa.string(),
    "root_id": pa.string(),  # the web document
    "recipe": pa.string(),
    "style": pa.string(),
    "attempt": pa.int8(),  # 1 for the first
    "harm": pa.string(),  # the kind of harm, told by words; null for rephrase
    "source_score": pa.int8(),
    SOURCE: pa.string(),
    "engine": pa.string(),
    "messages": _MESSAGES,
}
_OF_A_PART = {WHOLE: pa.string(), "part": pa.int32(), "source_start": pa.int32(), "source_end": pa.int32()}
_OF_THE_SOURCE = (
    *("text", "score", "probs", "chunk_scores", "label", "token_count"),
    *(column.name for column in ENSEMBLE),
    *(PARTS, SIMILARITY, *USAGE),
)
"""Columns that describe the source's text and would be untrue beside the new one."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What decides how a row is asked about, beside its own content."""

    seed: int
    engine: str
    max_chars: int
    """characters of a source in one prompt at most"""
    attempt: int = 1


def from_documents(batch: pa.Table, recipe_of: dict[int, str], draws: Draw) -> pa.Table:
    """One task for each scored row whose score has a recipe; rows of other scores go."""
    names = ["id", "text", "score", *(n for n in ("chunk_scores",) if n in batch.column_names)]
    rows = [
        {"root_id": row["id"], "source_score": row["score"], "recipe": recipe_of[row["score"]], **row}
        for row in batch.select(names).to_pylist()
        if row["score"] in recipe_of
    ]
    wanted = pa.array([score in recipe_of for score in batch.column("score").to_pylist()], pa.bool_())
    return _tasks(batch.filter(wanted), rows, draws)


def from_refusals(batch: pa.Table, draws: Draw) -> pa.Table:
    """One moralize task for each accepted refusal; other rows go."""
    names = ["id", "text", "root_id", "source_score", "recipe", "harm"]
    rows = [
        {**row, "recipe": "moralize"} for row in batch.select(names).to_pylist() if row["recipe"] == "refuse"
    ]
    wanted = pa.array([recipe == "refuse" for recipe in batch.column("recipe").to_pylist()], pa.bool_())
    return _tasks(batch.filter(wanted), rows, draws)


def again(batch: pa.Table, draws: Draw) -> pa.Table:
    """Rows that were rejected as tasks for another try, each with a style it has not had yet."""
    names = ["source_id", "root_id", "source_score", "recipe", "harm", "style", REJECTED_SOURCE.name]
    rows = [
        {**row, "id": row["source_id"], "text": row[REJECTED_SOURCE.name], "before": row["style"]}
        for row in batch.select(names).to_pylist()
    ]
    return _tasks(_without(batch, REJECTED_SOURCE.name), rows, draws)


def _tasks(kept: pa.Table, rows: list[dict[str, Any]], draws: Draw) -> pa.Table:
    added = [_task(row, draws) for row in rows]
    kept = _without(kept, *_ADDED, *_OF_THE_SOURCE)
    for name, kind in _ADDED.items():
        kept = kept.append_column(name, pa.array([row[name] for row in added], kind))
    return kept


def _task(row: dict[str, Any], draws: Draw) -> dict[str, Any]:
    recipe = row["recipe"]
    id = f"{row['id']}/{recipe}"
    task = {
        "id": id,
        "source_id": row["id"],
        "root_id": row["root_id"],
        "recipe": recipe,
        "style": draw(recipe, draws.seed, id, draws.attempt, row.get("before")),
        "attempt": draws.attempt,
        "harm": None if recipe == "rephrase" else row.get("harm") or harm_of(row["text"]),
        "source_score": row["source_score"],
        SOURCE: row["text"],
        "engine": draws.engine,
    }
    if is_long(task, draws.max_chars):
        return task | {"messages": None}  # its parts are asked about
    seen = split.worst(row["text"], row.get("chunk_scores"), draws.max_chars)
    return task | {"messages": _messages(task, id, seen, draws.seed)}


def _messages(task: dict[str, Any], id: str, document: str, seed: int) -> list[dict[str, str]]:
    fields = {"style": describe(task["recipe"], task["style"])}
    if task["recipe"] == "refuse":
        fields["harm"] = harm_name(task["harm"])
    return prompts.messages(task["recipe"], document, seed=seed, id=id, **fields)


def is_long(task: dict[str, Any], max_chars: int) -> bool:
    """Whether the task's document is rewritten in parts. A refusal needs the worst part alone."""
    return task["recipe"] == "rephrase" and len(task[SOURCE]) > max_chars


def only(batch: pa.Table, long: bool, max_chars: int) -> pa.Table:
    """The long tasks or the others."""
    rows = batch.select(["recipe", SOURCE]).to_pylist()
    return batch.filter(pa.array([is_long(row, max_chars) == long for row in rows], pa.bool_()))


def cut(batch: pa.Table, draws: Draw) -> pa.Table:
    """Long tasks as one task for each part, in the style of the whole; the parts name it in `whole`."""
    places: list[int] = []
    parts: list[dict[str, Any]] = []
    for place, task in enumerate(batch.select(list(_ADDED)).to_pylist()):
        for n, (start, end) in enumerate(split.stretches(task[SOURCE], draws.max_chars)):
            id, text = f"{task['id']}#{n}", task[SOURCE][start:end]
            places.append(place)
            parts.append(
                {"id": id, SOURCE: text, "messages": _messages(task, id, text, draws.seed)}
                | {WHOLE: task["id"], "part": n, "source_start": start, "source_end": end}
            )
    rows = _without(batch.take(pa.array(places, pa.int64())), "id", SOURCE, "messages")
    for name, kind in (_ADDED | _OF_A_PART).items():
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.array([part[name] for part in parts], kind))
    return rows


def join_parts(parts: pa.Table) -> pa.Table:
    """The drafts of documents' parts as one draft a document; its problem is the first one of a part.

    All parts of a document are in `parts`, in any order.
    """
    parts = parts.sort_by([(WHOLE, "ascending"), ("part", "ascending")])
    names = parts.column(WHOLE).to_pylist()
    starts = [n for n, name in enumerate(names) if n == 0 or names[n - 1] != name]
    values = [
        _joined(parts.slice(start, end - start))
        for start, end in zip(starts, [*starts[1:], len(names)], strict=True)
    ]
    kinds = {"id": pa.string(), "text": pa.string(), SOURCE: pa.string(), PROBLEM: pa.string()} | {
        PARTS: pa.list_(PART), **{name: pa.int64() for name in USAGE}
    }  # fmt: skip
    rows = _without(parts.take(pa.array(starts, pa.int64())), *kinds, *_OF_A_PART)
    for name, kind in kinds.items():
        rows = rows.append_column(name, pa.array([value[name] for value in values], kind))
    return rows


def _joined(parts: pa.Table) -> dict[str, Any]:
    columns = parts.select(["text", SOURCE, PROBLEM, "source_start", "source_end", *USAGE]).to_pydict()
    text, stretches = split.join(columns["text"])
    problems = [f"{said} (part {n + 1})" for n, said in enumerate(columns[PROBLEM]) if said]
    tokens = {name: [n for n in columns[name] if n is not None] for name in USAGE}
    sources = zip(columns["source_start"], columns["source_end"], stretches, strict=True)
    return {
        "id": parts.column(WHOLE)[0].as_py(),
        "text": text,
        SOURCE: "\n\n".join(columns[SOURCE]),
        PROBLEM: problems[0] if problems else None,
        PARTS: [
            {"source_start": source_start, "source_end": source_end, "start": start, "end": end}
            for source_start, source_end, (start, end) in sources
        ],
        **{name: sum(counted) if counted else None for name, counted in tokens.items()},
    }


def read_replies(batch: pa.Table) -> pa.Table:
    """`text` from `reply`, and `problem` where there is none; a reply that does not parse stays as text."""
    texts: list[str] = []
    problems: list[str | None] = []
    for row in batch.select(["recipe", REPLY, ERROR]).to_pylist():
        text, problem = row[REPLY] or "", row[ERROR] and f"engine: {row[ERROR]}"
        if problem is None:
            try:
                text = RECIPES[row["recipe"]].text(text)
            except ValueError as reason:
                problem = str(reason) if str(reason) == parse.DECLINED else f"form: {reason}"
        texts.append(text)
        problems.append(problem)
    batch = batch.drop_columns([REPLY, ERROR, "messages"])
    batch = batch.append_column("text", pa.array(texts, pa.string()))
    batch = batch.append_column(PROBLEM, pa.array(problems, pa.string()))
    if WHOLE in batch.column_names:
        return batch
    return batch.append_column(PARTS, pa.nulls(len(batch), pa.list_(PART)))


def settle(batch: pa.Table, bounds: acceptance.Bounds, reason_column: str) -> pa.Table:
    """Scored drafts to rows of the schema `REWRITTEN`, with the reason where a draft is not kept."""
    if SIMILARITY not in batch.column_names:
        batch = batch.append_column(SIMILARITY, pa.nulls(len(batch), pa.float32()))
    names = [PROBLEM, "recipe", "text", SOURCE, "score", "source_score", SIMILARITY]
    reasons = [_reason(row, bounds) for row in batch.select(names).to_pylist()]
    sources = [
        source if reason else None
        for source, reason in zip(batch.column(SOURCE).to_pylist(), reasons, strict=True)
    ]
    first = [column.name for column in REWRITTEN] + ["root_id", "harm", "engine", "attempt", SIMILARITY]
    gone = {PROBLEM, SOURCE, SECONDS, reason_column}
    others = [n for n in batch.column_names if n not in {*first, *gone}]
    batch = batch.select(first + others).append_column(REJECTED_SOURCE.name, pa.array(sources, pa.string()))
    return batch.append_column(reason_column, pa.array(reasons, pa.string()))


def _reason(row: dict[str, Any], bounds: acceptance.Bounds) -> str | None:
    if row[PROBLEM]:
        return str(row[PROBLEM])
    if row["score"] is None:
        return "judge: it gave no score"
    return acceptance.verdict(row, bounds)


def _without(batch: pa.Table, *names: str) -> pa.Table:
    return batch.drop_columns([name for name in names if name in batch.column_names])
