"""Registry of prompt sets: published sets by name, a file of one's own, and beginnings of documents.

To add a set, declare it in published.py (over_refusal.py for sets that only measure refusals) and add it to
`PROMPT_SETS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safety_ray.core.errors import UserError, nearest
from safety_ray.evaluate.prompt_sets import completions, over_refusal, own_file, published
from safety_ray.evaluate.prompt_sets.prompt_set import (
    HARMFUL,
    HARMLESS,
    KINDS,
    Prompt,
    PromptSet,
    Sample,
    sample,
)

__all__ = [
    "DOCUMENTS", "HARMFUL", "HARMLESS", "KINDS", "PROMPT_SETS", "TEXTS", "Prompt", "PromptSet", "Sample",
    "check_columns", "check_names", "load", "markdown", "own_files", "summary", "title",
]  # fmt: skip

check_columns = own_file.check_columns
DOCUMENTS = "documents"
"""Name of the set of document beginnings (safety_ray/evaluate/documents.py)."""

PROMPT_SETS: dict[str, PromptSet] = {
    prompt_set.name: prompt_set
    for prompt_set in (
        published.ADVBENCH,
        published.HARMBENCH,
        published.TDC2023,
        published.STRONGREJECT,
        published.XSTEST,
        published.CATQA,
        published.JAILBREAKBENCH,
        over_refusal.PHTEST,
        over_refusal.PHTEST_CONTROVERSIAL,
        completions.ADVBENCH_COMPLETIONS,
        completions.JB_COMPLETIONS,
    )
}
TEXTS = frozenset({DOCUMENTS, *(name for name, prompt_set in PROMPT_SETS.items() if prompt_set.is_text)})
"""Names of the sets of beginnings of texts, which are never put into a chat template"""


def check_names(names: list[str]) -> None:
    """Raise UserError for an unknown or repeated set."""
    known = [DOCUMENTS, *PROMPT_SETS]
    seen: set[str] = set()
    for name in names:
        if name not in known and not own_file.is_file(name):
            raise UserError(
                f"prompt_sets: unknown set '{name}'; the nearest is '{nearest(name, known)}' "
                f"(choose from {', '.join(known)}, or name a .csv, .jsonl or .parquet file with a column "
                "'prompt')."
            )
        if own_file.is_file(name) and title(name) in known:
            raise UserError(
                f"prompt_sets: '{name}' has the name of the set '{title(name)}'; rename the file."
            )
        if title(name) in seen:
            raise UserError(f"prompt_sets: '{title(name)}' is listed more than once.")
        seen.add(title(name))


def own_files(names: list[str]) -> list[str]:
    """Return those of `names` that are files."""
    return [name for name in names if own_file.is_file(name)]


def unchecked_files(names: list[str], data: str) -> list[str]:
    """Return the existing files below `data` of published sets in `names` that have no checksum."""
    files = [file for name in names if name in PROMPT_SETS for file in PROMPT_SETS[name].files]
    paths = dict.fromkeys(str(Path(data, file.path)) for file in files if file.sha256 is None)
    return [path for path in paths if Path(path).is_file()]


def title(name: str) -> str:
    """Return the name under which the results of a set are reported: a file's name without its suffix."""
    return own_file.title(name) if own_file.is_file(name) else name


def load(
    name: str, data: str, limit: int, seed: int, skip: int = 0, columns: Mapping[str, str] | None = None
) -> dict[str, Sample]:
    """Return the prompts of one set by kind, at most `limit` of each (0: all), sampled by `seed`.

    The first `skip` prompts in the order of the sample, and others of their groups, are left out.

    `name` is a published set, whose file is below the folder `data`, or a file or URL with a column `prompt`
    and optional columns `id`, `group` and `kind`, which may have the names in `columns`. Raises UserError if
    the file is missing or not as expected.
    """
    if name in PROMPT_SETS:
        if not data:
            raise UserError(f"prompt_sets: '{name}' needs data, the folder with the published files.")
        prompts = PROMPT_SETS[name].prompts(Path(data))
    else:
        prompts = own_file.prompts(name, columns or {})
    of_kind = {kind: [prompt for prompt in prompts if prompt.kind == kind] for kind in KINDS}
    return {kind: sample(members, limit, seed, skip) for kind, members in of_kind.items() if members}


def summary() -> str:
    """Return the published sets with their contents, for `--help`."""
    return ", ".join(f"{prompt_set.name} ({prompt_set.contents})" for prompt_set in PROMPT_SETS.values())


def markdown() -> str:
    """Return the table of the published sets and the list of their files, for docs/evaluate.md."""
    lines = ["| set | contents | licence |", "|---|---|---|"]
    for prompt_set in PROMPT_SETS.values():
        lines.append(
            f"| [`{prompt_set.name}`]({prompt_set.url}) | {prompt_set.contents} | {prompt_set.licence} |"
        )
    lines.append("")
    for prompt_set in PROMPT_SETS.values():
        files = ", ".join(f"`{file.path}`" for file in prompt_set.files)
        lines.append(f"- `{prompt_set.name}`: {files}. {prompt_set.how_to_get}")
    return "\n".join(lines)
