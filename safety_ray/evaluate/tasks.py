"""Tasks of an evaluation: token ids of documents to read, and of prompts to answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from safety_ray.chat.encoder import ChatEncoder
from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash
from safety_ray.core.tag import encode, start_ids, token_ends
from safety_ray.core.tag_placement import word_starts_by_character
from safety_ray.evaluate.decoders import DECODERS
from safety_ray.evaluate.documents import Document
from safety_ray.evaluate.model import Description
from safety_ray.evaluate.prompt_sets import TEXTS, Prompt

T = TypeVar("T")
READ = "read"
_TASK_TOKENS = 8192  # tokens of documents per task


@dataclass(frozen=True, slots=True)
class Task:
    """Token ids of documents to read, or of prompts to answer with one decoder."""

    kind: str  # READ or the name of a decoder
    numbers: list[int]  # of the documents or answers
    rows: list[list[int]]
    seeds: list[int] = field(default_factory=list)  # of each answer

    @property
    def name(self) -> str:
        """Name of the file with the task's results."""
        return f"{self.kind}-{self.numbers[0]:06}.json"

    @property
    def size(self) -> int:
        """Number of result rows."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Prompts with their token ids, and those that do not fit the model's context, with their length."""

    prompts: list[Prompt]
    ids: list[list[int]]
    too_long: list[tuple[Prompt, int]]


def encode_prompts(
    described: Description, prompts: list[Prompt], *, max_new_tokens: int, chat: bool
) -> PromptIds:
    """Encode whole prompts. With `chat`, those of prompt sets are messages of the user in the chat template.

    A prompt that does not fit the model's context together with its answer is not shortened, but returned in
    `too_long`. Raises UserError if none fits, or if the tokenizer has no chat template.
    """
    tokenizer = described.load_tokenizer()
    if chat and not tokenizer.chat_template:
        raise UserError(f"chat: the tokenizer of '{described.folder}' has no chat template; set chat=false.")
    encoder = ChatEncoder(tokenizer, described.tag_id) if chat else None
    render = partial(tokenizer.apply_chat_template, tokenize=False)
    start = start_ids(tokenizer)
    positions = described.positions or 1 << 62
    encoded = PromptIds([], [], [])
    plain = encode(tokenizer, [prompt.text for prompt in prompts])
    for prompt, plain_ids in zip(prompts, plain, strict=True):
        ids = [*start, *plain_ids]
        if encoder is not None and prompt.prompt_set not in TEXTS:
            conversation = [{"role": "user", "content": prompt.text}]
            ids = encoder.encode(render, conversation, add_generation_prompt=True)
        if len(ids) + max_new_tokens > positions:
            encoded.too_long.append((prompt, len(ids)))
        else:
            encoded.prompts.append(prompt)
            encoded.ids.append(ids)
    if prompts and not encoded.ids:
        answers = f" with max_new_tokens={max_new_tokens} more" if max_new_tokens else ""
        raise UserError(
            f"the model's context of {positions} tokens is too short for each of the {len(prompts)} prompts"
            f"{answers}; lower {'max_new_tokens or ' if answers else ''}prompt_words."
        )
    return encoded


def answer_tasks(
    encoded: PromptIds, decoders: list[str], *, size: int, seed: int, samples: int = 1
) -> list[Task]:
    """Return the tasks that answer all prompts, `size` of similar length at once, with each decoder.

    Decoders that sample give `samples` answers to each prompt; answer j of prompt n has the number
    n x samples + j.
    """
    made = []
    for decoder in decoders:
        each = answers_each(decoder, samples)
        lengths = [len(ids) for ids in encoded.ids for _ in range(each)]
        order = sorted(range(len(lengths)), key=lambda n: (lengths[n], n))
        seeds = [value for prompt in encoded.prompts for value in seeds_for(prompt, seed, each)]
        made += [
            Task(decoder, group, [encoded.ids[n // each] for n in group], [seeds[n] for n in group])
            for group in [order[first : first + size] for first in range(0, len(order), size)][::-1]
        ]
    # The longest prompts first, so that none of them starts when all others are done.
    return sorted(made, key=lambda task: -max(map(len, task.rows)))


def answers_each(decoder: str, samples: int) -> int:
    """Return the number of answers that a decoder gives to each prompt."""
    return samples if DECODERS[decoder].samples else 1


def seeds_for(prompt: Prompt, seed: int, number: int) -> list[int]:
    """Return the seeds of `number` answers to a prompt; the first does not depend on `number`."""
    key = (seed, prompt.prompt_set, prompt.kind, prompt.id)
    return [stable_hash(*key, *([n] if n else [])) % 2**31 for n in range(number)]


def read_tasks(described: Description, documents: list[Document], *, document_tokens: int) -> list[Task]:
    """Return the tasks that read at most `document_tokens` tokens of each document."""
    tokenizer = described.load_tokenizer()
    start = start_ids(tokenizer)
    limit = min(document_tokens, described.positions or document_tokens)
    tasks: list[Task] = []
    for number, ids in enumerate(encode(tokenizer, [document.text for document in documents])):
        row = [*start, *ids][:limit]
        if tasks and sum(map(len, tasks[-1].rows)) + len(row) <= _TASK_TOKENS:
            tasks[-1].rows.append(row)
            tasks[-1].numbers.append(number)
        else:
            tasks.append(Task(READ, [number], [row]))
    return tasks


def word_ends(described: Description, documents: list[Document], *, document_tokens: int) -> list[list[bool]]:
    """Return, for each document and token of `read_tasks`, whether a word begins at the next token.

    `pack` inserts the tag at such positions only. The last token that is read has none.
    """
    tokenizer = described.load_tokenizer()
    shift = len(start_ids(tokenizer))
    limit = min(document_tokens, described.positions or document_tokens)
    texts = [document.text for document in documents]
    flags = []
    for text, ends in zip(texts, token_ends(tokenizer, texts), strict=True):
        starts = word_starts_by_character(text, np.array(ends, np.int64))
        before = set(
            (starts[starts > starts[:1]] + shift - 1).tolist()
        )  # there is no tag before the first word
        tokens = min(len(ends) + shift, limit)
        flags.append([position in before for position in range(tokens - 1)] + [False] * bool(tokens))
    return flags


def rows_of(tasks: list[Task], results: dict[str, list[dict[str, Any]]], kind: str) -> list[dict[str, Any]]:
    """Return all result rows of one kind of task, in the order of the documents or answers."""
    return _in_order([(task.numbers, results[task.name]) for task in tasks if task.kind == kind])


def seeds_of(tasks: list[Task], decoder: str) -> list[int | None]:
    """Return the seed of each answer, in order; None if the decoder does not sample."""
    samples = DECODERS[decoder].samples
    return _in_order(
        [(t.numbers, t.seeds if samples else [None] * t.size) for t in tasks if t.kind == decoder]
    )


def _in_order(parts: Iterable[tuple[Sequence[int], Sequence[T]]]) -> list[T]:
    """Return numbered values in the order of their numbers."""
    numbered = {n: value for numbers, values in parts for n, value in zip(numbers, values, strict=True)}
    return [numbered[number] for number in sorted(numbered)]
