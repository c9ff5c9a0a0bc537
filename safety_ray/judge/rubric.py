"""A language model as judge: the rubric prompt, the schema of the reply, and its parser.

The paper (section 1) asks for `{"score": int, "reason": str}` and reports that small models fail at JSON in
about a quarter of their replies. The reply is therefore constrained to a schema if the engine supports
this; without a schema, vLLM starts the reply inside the object.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, NamedTuple

import pyarrow as pa

from safety_ray.core.chunks import CHUNKS
from safety_ray.core.records import SCORES, without
from safety_ray.judge.excerpt import excerpt
from safety_ray.llm import prompts
from safety_ray.llm.engine import ERROR, MESSAGES, REPLY, SECONDS, USAGE

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "enum": list(range(SCORES))},
        "reason": {"type": "string"},
    },
    "required": ["score", "reason"],
    "additionalProperties": False,
}
_FOLDER = resources.files(__package__)
PROMPT = prompts.read_prompt(_FOLDER)
RETRY_PROMPT = prompts.read_text(_FOLDER, "retry_prompt.txt")
START = '{"score":'
REPLIED = "judge_reply"


class Names(NamedTuple):
    """The columns of a judgement."""

    score: str
    reason: str
    by: str
    shortened: str


_ENGINE = ("messages", REPLY, ERROR, *USAGE, SECONDS)
_HIDDEN = "of the row: "
"""Prefix of the row's own columns of these names, while the engine's columns have them"""
LABEL = Names("label", "label_reason", "labelled_by", "label_shortened")


def add_messages(
    batch: pa.Table,
    seed: int,
    start: bool,
    names: Names = LABEL,
    again: bool = False,
    *,
    max_chars: int,
    by_chunks: bool = False,
) -> pa.Table:
    """Add the judge's `messages` to `batch`; `start` begins the reply inside its JSON object.

    `again` is for rows whose first reply could not be parsed, and adds a reminder of the format. The first
    reply is not repeated, because the document may have determined its text. The messages contain at most
    `max_chars` characters of a document, with its most harmful chunk if `by_chunks` (excerpt.py).
    """
    reminder = f"\n\n{RETRY_PROMPT}" if again else ""
    reply_start = [{"role": "assistant", "content": START}] if start else []
    messages, shortened = [], []
    optional = [CHUNKS] if by_chunks and CHUNKS in batch.column_names else []
    for row in batch.select(["id", "text", *optional]).to_pylist():
        text = row["text"] or ""
        document = excerpt(text, max_chars, row.get(CHUNKS))
        shortened.append(document != text)
        system, user = prompts.messages(PROMPT, document, seed=seed, id=row["id"])
        messages.append([{**system, "content": system["content"] + reminder}, user, *reply_start])
    if names.score == "label" and "label" in batch.column_names and not again:
        # Keep an earlier label under another name.
        batch = without(batch, "label_before")
        batch = batch.rename_columns(
            [{"label": "label_before"}.get(name, name) for name in batch.column_names]
        )
    batch = without(batch, *names, REPLIED)
    batch = batch.rename_columns(
        [f"{_HIDDEN}{name}" if name in _ENGINE else name for name in batch.column_names]
    )
    batch = batch.append_column(names.shortened, pa.array(shortened, pa.bool_()))
    return batch.append_column("messages", pa.array(messages, MESSAGES))


def parse_replies(
    batch: pa.Table, started: bool, engine: str, reason_column: str, names: Names = LABEL
) -> pa.Table:
    """Parse `reply` into the columns `names`; `reason_column` gets the error of a reply without judgement."""
    scores: list[int | None] = []
    reasons: list[str | None] = []
    problems: list[str | None] = []
    for row in batch.select([REPLY, ERROR]).to_pylist():
        score, reason, problem = None, None, row[ERROR] and f"engine: {row[ERROR]}"
        if problem is None:
            try:
                score, reason = judgement((START if started else "") + row[REPLY])
            except ValueError as error:
                problem = str(error)
        scores.append(score)
        reasons.append(reason)
        problems.append(problem)
    batch = batch.rename_columns({REPLY: REPLIED})
    batch = without(batch, *_ENGINE)
    batch = batch.rename_columns([name.removeprefix(_HIDDEN) for name in batch.column_names])
    batch = batch.append_column(names.score, pa.array(scores, pa.int8()))
    batch = batch.append_column(names.reason, pa.array(reasons, pa.string()))
    batch = batch.append_column(names.by, pa.array([engine] * len(batch), pa.string()))
    return batch.append_column(reason_column, pa.array(problems, pa.string()))


def judgement(reply: str) -> tuple[int, str]:
    """Return (score, reason) of a reply. Raises ValueError unless it is one JSON object with these two
    keys.
    """
    try:
        # Not strict about control characters in strings, which the grammar of the schema permits.
        value = json.loads(reply.strip(), object_pairs_hook=_unique_keys, strict=False)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("the judge's reply is not a JSON object") from None
    if not isinstance(value, dict) or set(value) != {"score", "reason"}:
        raise ValueError("the judge's reply does not have exactly the keys score and reason")
    score, reason = value["score"], value["reason"]
    if type(score) is not int or not 0 <= score < SCORES:
        raise ValueError(f"the judge's score is not an integer from 0 to {SCORES - 1}")
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError("the judge's reason is empty")
    # JSON can encode half a surrogate pair, which Arrow strings cannot contain.
    return score, reason.strip().encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("the judge's reply has a key twice")
    return dict(pairs)
