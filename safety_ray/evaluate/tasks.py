"""The evaluation cut into tasks: token ids of documents to read and of prompts to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from safety_ray.core.errors import UserError
from safety_ray.core.tag import encode
from safety_ray.evaluate.documents import Document, Prompt, prompts
from safety_ray.evaluate.model import Description

_TASK_TOKENS = 8192  # tokens of documents that one task reads


@dataclass(frozen=True, slots=True)
class Task:
    """Rows of token ids, by number: documents to read or prompts to go on from."""

    kind: str  # "read" or "go_on"
    first: int
    rows: list[list[int]]

    @property
    def name(self) -> str:
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
    prompts_at_once: int,
) -> tuple[list[Prompt], list[Task]]:
    """The prompts that the model has room for, and all work: prompts first, as they take longest.

    Documents are numbered safe, then unsafe. Raises UserError where no prompt fits the model.
    """
    tokenizer = AutoTokenizer.from_pretrained(described.folder)
    positions = described.positions or 1 << 62
    most = min(document_tokens, positions)
    texts = [ids[:most] for ids in encode(tokenizer, [d.text for d in [*safe, *unsafe]])]
    asked = prompts(unsafe, words=prompt_words, most=max_prompts)
    ids = encode(tokenizer, [prompt.text for prompt in asked])
    fitting = [
        (prompt, row)
        for prompt, row in zip(asked, ids, strict=True)
        if len(row) + max_new_tokens <= positions
    ]
    if not fitting:
        raise UserError(
            f"the model has {positions} positions, too few for a prompt of prompt_words={prompt_words} "
            f"words and max_new_tokens={max_new_tokens} more; lower one of them."
        )
    tasks = _prompt_tasks([row for _, row in fitting], prompts_at_once)
    return [prompt for prompt, _ in fitting], [*tasks, *_document_tasks(texts)]


def _prompt_tasks(rows: list[list[int]], size: int) -> list[Task]:
    return [Task("go_on", first, rows[first : first + size]) for first in range(0, len(rows), size)]


def _document_tasks(rows: list[list[int]]) -> list[Task]:
    """Neighbours until they are enough; which of them share a batch is the worker's matter."""
    tasks: list[Task] = []
    for number, row in enumerate(rows):
        if tasks and sum(map(len, tasks[-1].rows)) + len(row) <= _TASK_TOKENS:
            tasks[-1].rows.append(row)
        else:
            tasks.append(Task("read", number, [row]))
    return tasks


def rows_of(results: dict[str, list[dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    """All rows of one kind of task, in the order of their numbers."""
    return [row for name in sorted(results) if name.startswith(kind) for row in results[name]]
