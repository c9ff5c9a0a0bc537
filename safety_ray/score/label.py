"""A language model as judge: the rubric prompt, the shape of its answer, and what is made of it.

The paper (section 1) asks for `{"score": int, "reason": str}` and found that small models miss the
JSON in about a quarter of their replies, so the reply is held to a schema where the engine can do
that, and is started inside the object where vLLM runs without one.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from safety_ray import prompts
from safety_ray.engine import ERROR, REPLY
from safety_ray.records import SCORES

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "enum": list(range(SCORES))},
        "reason": {"type": "string"},
    },
    "required": ["score", "reason"],
    "additionalProperties": False,
}
START = '{"score":'
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def ask(batch: pa.Table, seed: int, start: bool) -> pa.Table:
    """`batch` with the judge's `messages`; `start` begins the answer inside its JSON object."""
    begun = [{"role": "assistant", "content": START}] if start else []
    messages = [
        prompts.messages("judge", row["text"], seed=seed, id=row["id"]) + begun
        for row in batch.select(["id", "text"]).to_pylist()
    ]
    if "label" in batch.column_names:  # an older label is kept under another name
        batch = batch.drop_columns([n for n in ("label_before",) if n in batch.column_names])
        batch = batch.rename_columns(
            [{"label": "label_before"}.get(name, name) for name in batch.column_names]
        )
    return batch.append_column("messages", pa.array(messages, _MESSAGES))


def read(batch: pa.Table, started: bool, engine: str, reason_column: str) -> pa.Table:
    """`label`, `label_reason` and `labelled_by` from `reply`; `reason_column` says why there is no label."""
    labels: list[int | None] = []
    reasons: list[str | None] = []
    problems: list[str | None] = []
    for row in batch.select([REPLY, ERROR]).to_pylist():
        label, reason, problem = None, None, row[ERROR] and f"engine: {row[ERROR]}"
        if problem is None:
            try:
                label, reason = judgement((START if started else "") + row[REPLY])
            except ValueError as error:
                problem = str(error)
        labels.append(label)
        reasons.append(reason)
        problems.append(problem)
    batch = batch.drop_columns([ERROR, "messages"]).rename_columns({REPLY: "judge_reply"})
    batch = batch.append_column("label", pa.array(labels, pa.int8()))
    batch = batch.append_column("label_reason", pa.array(reasons, pa.string()))
    batch = batch.append_column("labelled_by", pa.array([engine] * len(batch), pa.string()))
    return batch.append_column(reason_column, pa.array(problems, pa.string()))


def judgement(reply: str) -> tuple[int, str]:
    """(score, reason) of a reply that is one JSON object of exactly these keys; ValueError otherwise."""
    try:
        # Not strict about raw control characters in a string: the schema's grammar lets a model write them.
        value = json.loads(reply.strip(), object_pairs_hook=_once, strict=False)
    except json.JSONDecodeError:
        raise ValueError("the judge's reply is no JSON object") from None
    if not isinstance(value, dict) or set(value) != {"score", "reason"}:
        raise ValueError("the judge's reply does not hold exactly score and reason")
    score, reason = value["score"], value["reason"]
    if type(score) is not int or not 0 <= score < SCORES:
        raise ValueError(f"the judge's score is no integer from 0 to {SCORES - 1}")
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError("the judge gave no reason")
    return score, reason.strip()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("the judge's reply names a key twice")
    return dict(pairs)
