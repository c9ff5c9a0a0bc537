"""Judges that ask a language model to choose one of several verdicts on an answer.

A job sends the messages of `add_messages` through an engine (`safety_ray.llm.engine.processor`, with the
judge's `schema`) and parses the replies with `parse_replies`. `decide` gives the verdict on answers that need
no language model; the job sends only the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from safety_ray.core.records import without
from safety_ray.evaluate.judges.verdict import Answer, Verdict
from safety_ray.llm import prompts
from safety_ray.llm.engine import ERROR, MESSAGES, REPLY, SECONDS, USAGE
from safety_ray.llm.prompts import Prompt

HARMFUL, VALUE, LABEL, PROBLEM = "verdict_harmful", "verdict_value", "verdict_label", "verdict_problem"


@dataclass(frozen=True, slots=True)
class LmJudge:
    """A question to a language model, whose reply is a JSON object with one key."""

    prompt: Prompt
    """Prompt with the placeholders `$key`, `$request` and `$document` (the answer)"""
    key: str
    """Key of the reply's JSON object"""
    verdicts: Mapping[str, Verdict]
    """The verdict of each value that the reply may have"""
    decide: Callable[[Answer], Verdict | None]
    """Return the verdict on an answer that needs no language model, else None"""

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a reply."""
        return {
            "type": "object",
            "properties": {self.key: {"type": "string", "enum": list(self.verdicts)}},
            "required": [self.key],
            "additionalProperties": False,
        }

    @property
    def start(self) -> str:
        """The start of a reply, for engines that are not constrained to the schema."""
        return f'{{"{self.key}":'

    def messages(self, answer: Answer, *, seed: int, id: str, again: bool = False) -> list[dict[str, str]]:
        """Return the chat messages about `answer`; `again` adds a reminder of the format."""
        key = prompts.document_key(seed, id)
        request = prompts.delimited(answer.prompt, key)
        system, user = prompts.messages(self.prompt, answer.text, seed=seed, id=id, request=request)
        if again:
            choices = " or ".join(json.dumps({self.key: value}) for value in self.verdicts)
            reminder = f"An earlier reply could not be read. Reply with nothing but {choices}."
            system = {**system, "content": f"{system['content']}\n\n{reminder}"}
        return [system, user]

    def parse(self, reply: str) -> Verdict:
        """Return the verdict of a reply. Raises ValueError unless it is exactly one of the choices."""
        try:
            # An object becomes a tuple of pairs, so that a repeated key is noticed.
            pairs = json.loads(reply.strip(), object_pairs_hook=tuple)
        except (json.JSONDecodeError, RecursionError):
            pairs = None
        if not isinstance(pairs, tuple):
            raise ValueError("the judge's reply is not a JSON object")
        if [key for key, _ in pairs] != [self.key]:
            raise ValueError(f"the judge's reply does not have exactly the key {self.key}")
        [(_, value)] = pairs
        if not isinstance(value, str) or value not in self.verdicts:
            raise ValueError(f"the judge's reply is none of {', '.join(self.verdicts)}")
        return self.verdicts[value]


def add_messages(
    batch: pa.Table, judge: LmJudge, seed: int, start: bool = False, again: bool = False
) -> pa.Table:
    """Add `messages` to rows with `id`, `prompt` and `text`; `start` begins the reply inside its object."""
    reply_start = [{"role": "assistant", "content": judge.start}] if start else []
    messages = [
        judge.messages(Answer(row["prompt"], row["text"]), seed=seed, id=row["id"], again=again) + reply_start
        for row in batch.select(["id", "prompt", "text"]).to_pylist()
    ]
    return without(batch, "messages").append_column("messages", pa.array(messages, MESSAGES))


def parse_replies(batch: pa.Table, judge: LmJudge, started: bool = False) -> pa.Table:
    """Parse `reply` into the columns of a verdict; `verdict_problem` has the reason if there is none."""
    verdicts: list[Verdict | None] = []
    problems: list[str | None] = []
    for row in batch.select([REPLY, ERROR]).to_pylist():
        verdict, problem = None, row[ERROR] and f"engine: {row[ERROR]}"
        if problem is None:
            try:
                verdict = judge.parse((judge.start if started else "") + row[REPLY])
            except ValueError as error:
                problem = str(error)
        verdicts.append(verdict)
        problems.append(problem)
    batch = without(batch, ERROR, "messages", *USAGE, SECONDS, HARMFUL, VALUE, LABEL, PROBLEM)
    batch = batch.append_column(HARMFUL, pa.array([v and v.harmful for v in verdicts], pa.bool_()))
    batch = batch.append_column(VALUE, pa.array([v and v.value for v in verdicts], pa.float64()))
    batch = batch.append_column(LABEL, pa.array([v and v.label for v in verdicts], pa.string()))
    return batch.append_column(PROBLEM, pa.array(problems, pa.string()))
