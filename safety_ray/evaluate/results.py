"""The answers of an evaluation, one row each, with everything needed to judge them again.

    {"prompt_set": "xstest", "kind": "harmless", "id": "1", "group": "1", "prompt": "…", "chat": false,
     "decoder": "beam", "sample": 0, "seed": null, "answer": "…", "tokens": 24, "finished": false,
     "log_prob": -31.2, "p_tag": [0.01, …],
     "verdicts": {"refusal": {"harmful": true, "value": 0.0, "label": "none"}}}

`sample` numbers the answers of a decoder to one prompt. `verdicts` has null for an answer that a judge could
not judge. `p_tag` is P(tag) after each token, null without a tag. Answers of other software can be judged if
their rows have the keys of `REQUIRED`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError
from safety_ray.core.records import valid_text
from safety_ray.evaluate.judges import Answer, Verdict
from safety_ray.evaluate.prompt_sets import KINDS, TEXTS, Prompt

FILE = "results.jsonl"
REQUIRED = ("prompt_set", "kind", "id", "prompt", "decoder", "answer")

COMPARED = " (compared)"
"""Suffix of the decoders of another evaluation."""

Row = dict[str, Any]


def make_rows(
    prompts: Sequence[Prompt],
    answers: Mapping[str, Sequence[Row]],
    seeds: Mapping[str, Sequence[int | None]] | None = None,
    *,
    chat: bool = False,
) -> list[Row]:
    """Return the rows of all prompts.

    `chat`: prompts are in the chat template, except beginnings of texts. `answers` and `seeds` have, for each
    decoder, the same number of entries per prompt, in the order of the prompts.
    """
    each = {decoder: len(rows) // len(prompts) for decoder, rows in answers.items() if prompts}
    return [
        {
            "prompt_set": prompt.prompt_set,
            "kind": prompt.kind,
            "id": prompt.id,
            "group": prompt.group,
            "prompt": prompt.text,
            "chat": chat and prompt.prompt_set not in TEXTS,
            "decoder": decoder,
            "sample": sample,
            "seed": seeds[decoder][number * each[decoder] + sample] if seeds else None,
            **answers[decoder][number * each[decoder] + sample],
        }
        for number, prompt in enumerate(prompts)
        for decoder in answers
        for sample in range(each[decoder])
    ]


def write(path: str, rows: Sequence[Row]) -> None:
    """Write rows as JSON lines."""
    fs, root = filesystem.find(path)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    fs.pipe_file(root, "".join(lines).encode())


def read(path: str) -> list[Row]:
    """Read the rows of a results.jsonl, or of the output folder that has one, without their verdicts.

    Raises UserError that names the line without a required key.
    """
    fs, root = filesystem.find(path)
    root = f"{root}/{FILE}" if fs.isdir(root) else root
    if not fs.exists(root):
        raise UserError(f"'{root}' does not exist; give the output folder of evaluate, or its {FILE}.")
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    try:
        texts = lines(fs.cat_file(root))
    except UnicodeDecodeError as error:
        raise UserError(f"'{root}' is not UTF-8: {error.reason} at byte {error.start}.") from error
    for number, line in enumerate(texts, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"'{root}', line {number} is not valid JSON: {error}.") from error
        missing = [key for key in REQUIRED if not isinstance(row, dict) or not isinstance(row.get(key), str)]
        if missing:
            raise UserError(f"'{root}', line {number}: the key '{missing[0]}' must be a text.")
        if row["kind"] not in KINDS:
            raise UserError(f"'{root}', line {number}: kind must be one of {', '.join(KINDS)}.")
        key = tuple(str(row.get(name, 0)) for name in ("prompt_set", "kind", "id", "decoder", "sample"))
        if key in seen:
            raise UserError(f"'{root}', line {number} repeats id '{row['id']}' of {row['prompt_set']}.")
        seen.add(key)
        row = {name: valid_text(value) if isinstance(value, str) else value for name, value in row.items()}
        row.pop("verdicts", None)
        group = row.get("group")
        rows.append({**row, "group": row["id"] if group in (None, "") else str(group)})
    if not rows:
        raise UserError(f"'{root}' has no rows.")
    return rows


def training_size(path: str) -> Row:
    """Return what the evaluation at `path` reports of the size of its model's training (page.warnings)."""
    fs, root = filesystem.find(path)
    file = f"{root}/metrics.json"
    values: Row = json.loads(fs.cat_file(file)) if fs.isfile(file) else {}
    return {key: values[key] for key in ("tokens_per_parameter", "continued") if key in values}


def lines(data: bytes) -> list[str]:
    """Return the lines of a file. `str.splitlines` would also split at other characters, as U+2028."""
    return data.decode("utf-8").removesuffix("\n").split("\n") if data else []


def with_compared(rows: Sequence[Row], path: str) -> list[Row]:
    """Return `rows` and, as further decoders, the answers of another evaluation at `path` to their prompts.

    Answers of an earlier comparison in `rows` and at `path` are left out.
    A prompt is the same if its set, kind, id, text and use of the chat template are. The decoders get the
    suffix `COMPARED`. Raises UserError without a common prompt.
    """

    def key(row: Row) -> tuple[str, ...]:
        names = ("prompt_set", "kind", "id", "prompt")
        return (*(str(row[name]) for name in names), str(bool(row.get("chat"))))

    group = {key(row): row["group"] for row in rows}
    common = [
        {**row, "decoder": f"{row['decoder']}{COMPARED}", "group": group[key(row)]}
        for row in read(path)
        if key(row) in group and not row["decoder"].endswith(COMPARED)
    ]
    if not common:
        raise UserError(
            f"compare_to: '{path}' has no prompt in common with this evaluation; evaluate both models with "
            "the same prompt_sets, documents, prompt_words, max_prompts, skip_prompts, chat and seed."
        )
    return [*(row for row in rows if not row["decoder"].endswith(COMPARED)), *common]


def answers_of(rows: Sequence[Row]) -> list[Answer]:
    """Return what judges see of the rows."""
    return [Answer(row["prompt"], row["answer"], bool(row.get("tag_emitted"))) for row in rows]


def add_verdicts(rows: Sequence[Row], verdicts: Mapping[str, Sequence[Row | None]]) -> list[Row]:
    """Return the rows with the verdicts of each judge."""
    return [
        {**row, "verdicts": {judge: of_rows[number] for judge, of_rows in verdicts.items()}}
        for number, row in enumerate(rows)
    ]


def verdict_rows(verdicts: Sequence[Verdict]) -> list[Row]:
    """Return verdicts as JSON values."""
    return [asdict(verdict) for verdict in verdicts]
