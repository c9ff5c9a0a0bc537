"""Turn replies into drafts, and scored drafts into accepted and rejected rows.

A draft is a task with `text`, and with the reason in `problem` if the reply has no usable text.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.records import REWRITTEN, without
from safety_ray.llm.engine import ERROR, REPLY, SECONDS, USAGE
from safety_ray.rewrite import chunking
from safety_ray.rewrite.acceptance import Bounds, rejection_reason
from safety_ray.rewrite.recipes import RECIPES
from safety_ray.rewrite.reply import DECLINED
from safety_ray.rewrite.tasks import (
    CHUNK,
    CHUNK_COLUMNS,
    DOCUMENT_TASK,
    PARTS,
    PROBLEM,
    REJECTED_SOURCE,
    SIMILARITY,
    SOURCE,
)

_PART = pa.struct(
    [
        ("source_start", pa.int32()),  # characters of the source from which the chunk was made
        ("source_end", pa.int32()),
        ("start", pa.int32()),  # characters of the text
        ("end", pa.int32()),
    ]
)


def parse_replies(batch: pa.Table) -> pa.Table:
    """Add `text` and `problem` from the replies. A reply that cannot be parsed stays as text."""
    texts: list[str] = []
    problems: list[str | None] = []
    for row in batch.select(["recipe", REPLY, ERROR]).to_pylist():
        text, problem = row[REPLY] or "", row[ERROR] and f"engine: {row[ERROR]}"
        if problem is None:
            try:
                text = RECIPES[row["recipe"]].parse(text)
            except ValueError as reason:
                problem = str(reason) if str(reason) == DECLINED else f"form: {reason}"
        texts.append(text)
        problems.append(problem)
    batch = batch.drop_columns([REPLY, ERROR, "messages"])
    batch = batch.append_column("text", pa.array(texts, pa.string()))
    batch = batch.append_column(PROBLEM, pa.array(problems, pa.string()))
    if DOCUMENT_TASK in batch.column_names:
        return batch
    return batch.append_column(PARTS, pa.nulls(len(batch), pa.list_(_PART)))


def join_chunks(chunks: pa.Table) -> pa.Table:
    """Join the drafts of chunks into one draft for each document, with the first problem of a chunk.

    `chunks` must have all chunks of each document, in any order.
    """
    chunks = chunks.sort_by([(DOCUMENT_TASK, "ascending"), (CHUNK, "ascending")])
    names = chunks.column(DOCUMENT_TASK).to_pylist()
    starts = [n for n, name in enumerate(names) if n == 0 or names[n - 1] != name]
    documents = [
        _join(chunks.slice(start, end - start))
        for start, end in zip(starts, [*starts[1:], len(names)], strict=True)
    ]
    types = {"id": pa.string(), "text": pa.string(), SOURCE: pa.string(), PROBLEM: pa.string()} | {
        PARTS: pa.list_(_PART), **{name: pa.int64() for name in USAGE}
    }  # fmt: skip
    rows = without(chunks.take(pa.array(starts, pa.int64())), *types, *CHUNK_COLUMNS)
    for name, kind in types.items():
        rows = rows.append_column(name, pa.array([document[name] for document in documents], kind))
    return rows


def _join(chunks: pa.Table) -> dict[str, Any]:
    columns = chunks.select(["text", SOURCE, PROBLEM, "source_start", "source_end", *USAGE]).to_pydict()
    text, spans = chunking.join_texts(columns["text"])
    problems = [f"{problem} (chunk {n + 1})" for n, problem in enumerate(columns[PROBLEM]) if problem]
    tokens = {name: [count for count in columns[name] if count is not None] for name in USAGE}
    sources = zip(columns["source_start"], columns["source_end"], spans, strict=True)
    return {
        "id": chunks.column(DOCUMENT_TASK)[0].as_py(),
        "text": text,
        SOURCE: chunking.join_source(columns[SOURCE], columns["source_start"]),
        PROBLEM: problems[0] if problems else None,
        PARTS: [
            {"source_start": source_start, "source_end": source_end, "start": start, "end": end}
            for source_start, source_end, (start, end) in sources
        ],
        **{name: sum(counts) if counts else None for name, counts in tokens.items()},
    }


def note_unscored(batch: pa.Table, reason_column: str) -> pa.Table:
    """Make the reason why a draft could not be scored its problem, for which it is rejected."""
    if reason_column not in batch.column_names:
        return batch
    problems = pc.coalesce(batch.column(PROBLEM), batch.column(reason_column))
    return without(batch, PROBLEM, reason_column).append_column(PROBLEM, problems)


def accept_drafts(batch: pa.Table, bounds: Bounds, reason_column: str) -> pa.Table:
    """Return scored drafts as rows of the schema `REWRITTEN`, with a reason for each rejected one."""
    if SIMILARITY not in batch.column_names:
        batch = batch.append_column(SIMILARITY, pa.nulls(len(batch), pa.float32()))
    names = [PROBLEM, "recipe", "text", SOURCE, "score", "source_score", SIMILARITY]
    reasons = [_reason(row, bounds) for row in batch.select(names).to_pylist()]
    sources = [
        source if reason else None
        for source, reason in zip(batch.column(SOURCE).to_pylist(), reasons, strict=True)
    ]
    first = [column.name for column in REWRITTEN] + ["root_id", "harm", "engine", "attempt", SIMILARITY]
    dropped = {PROBLEM, SOURCE, SECONDS, reason_column}
    others = [name for name in batch.column_names if name not in {*first, *dropped}]
    batch = batch.select(first + others).append_column(REJECTED_SOURCE.name, pa.array(sources, pa.string()))
    return batch.append_column(reason_column, pa.array(reasons, pa.string()))


def _reason(row: dict[str, Any], bounds: Bounds) -> str | None:
    if row[PROBLEM]:
        return str(row[PROBLEM])
    if row["score"] is None:
        return "judge: no score"
    return rejection_reason(row, bounds)
