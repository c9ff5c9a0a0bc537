"""A language model as judge: the rubric prompt, the shape of its answer, and what is made of it.

The paper (section 1) asks for `{"score": int, "reason": str}` and found that small models miss the
JSON in about a quarter of their replies, so the reply is held to a schema where the engine can do
that, and is started inside the object where vLLM runs without one.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, NamedTuple

import pyarrow as pa

from safety_ray.core.records import SCORES
from safety_ray.llm import prompts
from safety_ray.llm.engine import ERROR, REPLY, SECONDS, USAGE

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
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


class Names(NamedTuple):
    """The columns that hold a judgement."""

    score: str
    reason: str
    by: str


LABEL = Names("label", "label_reason", "labelled_by")


def ask(batch: pa.Table, seed: int, start: bool, names: Names = LABEL, again: bool = False) -> pa.Table:
    """`batch` with the judge's `messages`; `start` begins the answer inside its JSON object.

    `again` asks about rows that an earlier reply left without a judgement, and says so. The reply
    itself is not repeated: it may hold whatever the document made the judge write.
    """
    reminder = f"\n\n{RETRY_PROMPT}" if again else ""
    begun = [{"role": "assistant", "content": START}] if start else []
    messages = []
    for row in batch.select(["id", "text"]).to_pylist():
        system, user = prompts.messages(PROMPT, row["text"], seed=seed, id=row["id"])
        messages.append([{**system, "content": system["content"] + reminder}, user, *begun])
    if names.score == "label" and "label" in batch.column_names and not again:
        # An older label is kept under another name.
        batch = _without(batch, "label_before")
        batch = batch.rename_columns(
            [{"label": "label_before"}.get(name, name) for name in batch.column_names]
        )
    return _without(batch, *names, REPLIED, "messages").append_column(
        "messages", pa.array(messages, _MESSAGES)
    )


def read(batch: pa.Table, started: bool, engine: str, reason_column: str, names: Names = LABEL) -> pa.Table:
    """The columns `names` from `reply`; `reason_column` says why there is no judgement."""
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
    batch = _without(batch, ERROR, "messages", *USAGE, SECONDS).rename_columns({REPLY: REPLIED})
    batch = batch.append_column(names.score, pa.array(scores, pa.int8()))
    batch = batch.append_column(names.reason, pa.array(reasons, pa.string()))
    batch = batch.append_column(names.by, pa.array([engine] * len(batch), pa.string()))
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
    # JSON can spell half a surrogate pair, which no column of strings can hold.
    return score, reason.strip().encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("the judge's reply names a key twice")
    return dict(pairs)


def _without(batch: pa.Table, *names: str) -> pa.Table:
    return batch.drop_columns([name for name in names if name in batch.column_names])
