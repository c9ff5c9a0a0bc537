"""Tasks of an evaluation: token ids of documents to read, and of prompts to continue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from safety_ray.core.errors import UserError
from safety_ray.core.tag import encode
from safety_ray.evaluate.documents import Document, Prompt, prompts
from safety_ray.evaluate.model import Description

READ, GENERATE = "read", "generate"
_TASK_TOKENS = 8192  # tokens of documents per task


@dataclass(frozen=True, slots=True)
class Task:
    """Token ids of consecutive documents to read, or of consecutive prompts to continue."""

    kind: str  # READ or GENERATE
    first: int  # number of the first document or prompt
    rows: list[list[int]]

    @property
    def name(self) -> str:
        """Name of the file with the task's results."""
        return f"{self.kind}-{self.first:06}.json"


def make_tasks(
    described: Description,
    safe: list[Document],
    unsafe: list[Document],
    *,
    document_tokens: int,
    max_prompts: int,
    prompt_words: int,
    max_new_tokens: int,
    prompts_per_task: int,
) -> tuple[list[Prompt], list[Task]]:
    """Return the prompts that fit the model's context, and all tasks; prompts first, as they take longest.

    Safe documents are numbered before unsafe ones. Raises UserError if no prompt fits.
    """
    tokenizer = AutoTokenizer.from_pretrained(described.folder)
    positions = described.positions or 1 << 62
    max_tokens = min(document_tokens, positions)
    texts = [ids[:max_tokens] for ids in encode(tokenizer, [d.text for d in [*safe, *unsafe]])]
    candidates = prompts(unsafe, words=prompt_words, limit=max_prompts)
    ids = encode(tokenizer, [prompt.text for prompt in candidates])
    fitting = [
        (prompt, row)
        for prompt, row in zip(candidates, ids, strict=True)
        if len(row) + max_new_tokens <= positions
    ]
    if not fitting:
        raise UserError(
            f"the model's context of {positions} tokens is too short for a prompt of "
            f"prompt_words={prompt_words} words and max_new_tokens={max_new_tokens} more; lower one of them."
        )
    tasks = _prompt_tasks([row for _, row in fitting], prompts_per_task)
    return [prompt for prompt, _ in fitting], [*tasks, *_document_tasks(texts)]


def _prompt_tasks(rows: list[list[int]], size: int) -> list[Task]:
    return [Task(GENERATE, first, rows[first : first + size]) for first in range(0, len(rows), size)]


def _document_tasks(rows: list[list[int]]) -> list[Task]:
    """Group consecutive documents; the worker forms batches of similar length."""
    tasks: list[Task] = []
    for number, row in enumerate(rows):
        if tasks and sum(map(len, tasks[-1].rows)) + len(row) <= _TASK_TOKENS:
            tasks[-1].rows.append(row)
        else:
            tasks.append(Task(READ, number, [row]))
    return tasks


def rows_of(results: dict[str, list[dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    """Return all rows of one kind of task, in order."""
    return [row for name in sorted(results) if name.startswith(kind) for row in results[name]]
