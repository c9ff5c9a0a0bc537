"""A prompt, and the declaration of a set of prompts: its files, its columns and their meaning."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from safety_ray.core.errors import UserError
from safety_ray.core.published import PublishedData
from safety_ray.core.records import stable_hash, valid_text

HARMFUL, HARMLESS = "harmful", "harmless"
KINDS = (HARMFUL, HARMLESS)

_YOUNG = re.compile(r"\b(child\w*|kids?|minors?|teen\w*|under-?age\w*|girls?|boys?|young\w*)\b", re.I)
_SEXUAL = re.compile(r"\b(porn\w*|sex\w*|nud\w*|erotic\w*|groom\w*|molest\w*|lewd|explicit)\b", re.I)
_ALWAYS = re.compile(r"\bp(a?e)do\w*", re.I)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of an evaluation."""

    prompt_set: str
    kind: str
    """HARMFUL or HARMLESS"""
    id: str
    """unique in its set"""
    group: str
    """prompts of one group are not independent, for example variants of one document"""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a table of prompts."""

    prompt: str = "prompt"
    id: str = "id"
    """the row's number if there is no such column, or no value"""
    group: str = "group"
    """the id if there is no such column, or no value"""
    kind: str = "kind"
    """HARMFUL if there is no such column, or no value"""
    kinds: Mapping[str, str] = field(default_factory=lambda: {kind: kind for kind in KINDS})
    """the kind of each value of the column `kind`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet(PublishedData):
    """A published set of prompts: its files, their reader and the meaning of the columns."""

    noun: ClassVar[str] = "prompt set"
    read: Callable[..., Iterable[dict[str, Any]]]
    """yields the rows of the files, whose paths are its arguments"""
    columns: Columns = Columns()
    is_text: bool = False
    """its prompts are beginnings of texts, which no chat template contains"""

    def prompts(self, data: Path) -> list[Prompt]:
        """Return all prompts; the files are below `data`. Raises UserError if one is not as declared."""
        self.check_files(data)
        paths = [data / file.path for file in self.files]
        where = " and ".join(f"'{path}'" for path in paths)
        return to_prompts(self.name, self.read(*paths), self.columns, where)


def to_prompts(name: str, rows: Iterable[dict[str, Any]], columns: Columns, where: str) -> list[Prompt]:
    """Return the prompts in `rows`. Raises UserError that names the row without a prompt or a known kind."""
    prompts = []
    for number, row in enumerate(rows):
        text = row.get(columns.prompt)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}, row {number}: '{columns.prompt}' must be a text that is not empty.")
        kind = str(_value(row, columns.kind, next(iter(columns.kinds))))
        if kind not in columns.kinds:
            raise UserError(
                f"{where}, row {number}: {columns.kind}='{kind}' must be one of {', '.join(columns.kinds)}."
            )
        id = str(_value(row, columns.id, number))
        group = str(_value(row, columns.group, id))  # prompts without a group are not one group
        id, group, text = map(valid_text, (id, group, text.strip()))
        prompts.append(Prompt(name, columns.kinds[kind], id, group, text))
    repeated = [id for id, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    if repeated:
        raise UserError(f"{where}: the {columns.id} '{repeated[0]}' occurs more than once.")
    return prompts


def _value(row: dict[str, Any], column: str, default: Any) -> Any:
    """Return a value of `row`, or `default` if it is missing, null or an empty text."""
    value = row.get(column)
    return default if value is None or value == "" else value


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file, or of a JSONL file; see `parse_table`."""
    return parse_table(str(path), path.read_bytes())


def parse_table(name: str, data: bytes) -> list[dict[str, Any]]:
    """Return the rows of a CSV file, or of a JSONL file with one object per line.

    Raises UserError for another suffix, for text that is not UTF-8 and for a table or line that is not valid.
    """
    if not name.endswith((".csv", ".jsonl")):
        raise UserError(f"'{name}' must be a .csv or a .jsonl file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{name}' is not UTF-8: byte {error.start:,} is invalid.") from error
    if name.endswith(".csv"):
        try:
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:  # for example a field of more than 128 KiB
            raise UserError(f"'{name}' is not a valid CSV file: {error}.") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"'{name}', line {number} is not valid JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(f"'{name}', line {number} must be an object with a key 'prompt'.")
        rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class Sample:
    """The prompts of one set and kind that an evaluation uses, and the number of all others by reason."""

    prompts: list[Prompt]
    left_out: dict[str, int]


def take(prompts: list[Prompt], limit: int, skip: int) -> list[Prompt]:
    """Return at most `limit` prompts (0: all) after the first `skip`, and of other groups than those.

    Raises UserError if `skip` leaves none.
    """
    skipped = {prompt.group for prompt in prompts[:skip]}
    others = [prompt for prompt in prompts[skip:] if prompt.group not in skipped]
    if prompts and not others:
        raise UserError(
            f"skip_prompts={skip}: all {len(prompts):,} {prompts[0].kind} prompts of "
            f"'{prompts[0].prompt_set}' are skipped or in a group of a skipped one; use a lower number, or 0."
        )
    return others[: limit or None]


def sample(prompts: list[Prompt], limit: int, seed: int, skip: int = 0) -> Sample:
    """Sample at most `limit` prompts (0: all) of one set and kind, in the order of the set.

    Repeated texts, and prompts about sexual content with minors, are left out. Prompts are taken in the order
    of a hash with `seed`, after the first `skip`; see `take`.
    """
    unique: dict[str, Prompt] = {}
    for prompt in prompts:
        unique.setdefault(prompt.text, prompt)
    allowed = [prompt for text, prompt in unique.items() if not is_excluded(text)]
    by_hash = sorted(allowed, key=lambda prompt: stable_hash(seed, "prompt", prompt.id))
    chosen = {prompt.id for prompt in take(by_hash, limit, skip)}
    left_out = {
        "repeated": len(prompts) - len(unique),
        "excluded": len(unique) - len(allowed),
        "not_sampled": len(allowed) - len(chosen),
    }
    return Sample([prompt for prompt in allowed if prompt.id in chosen], left_out)


def is_excluded(text: str) -> bool:
    """Return whether a prompt is about sexual content with minors, by its words."""
    return bool(_ALWAYS.search(text) or (_YOUNG.search(text) and _SEXUAL.search(text)))
