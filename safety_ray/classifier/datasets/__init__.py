"""Published label sets as rows of one form, each mapped to the six levels of harm.

A row has `id`, `text`, `source` (the set's name) and a range of levels, `label` to `label_max`. A set with
graded labels gives one level, so both are equal. A set with binary labels gives a range, and is neither
trained nor measured on levels that it does not distinguish. Rows with split=heldout are measured, never
trained on.

To add a set, write a module with a `LABEL_SET` and add it to `LABEL_SETS`; see
docs/how-to/add-a-label-set.md.
"""

from __future__ import annotations

from pathlib import Path

from safety_ray.classifier.datasets import (
    beavertails,
    davidson,
    instructions,
    news,
    questions,
    realtoxicity,
    stance,
    stormfront,
    surge,
    web,
    wikipedia,
    xstest,
)
from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row
from safety_ray.core.errors import UserError, nearest
from safety_ray.core.records import stable_hash

__all__ = [
    "LABEL_SETS", "DataFile", "LabelSet", "Row", "check_files", "check_names", "inputs", "load", "markdown",
    "summary",
]  # fmt: skip

LABEL_SETS: dict[str, LabelSet] = {
    label_set.name: label_set
    for label_set in (
        realtoxicity.LABEL_SET,
        davidson.LABEL_SET,
        stormfront.LABEL_SET,
        surge.LABEL_SET,
        beavertails.LABEL_SET,
        instructions.LABEL_SET,
        questions.LABEL_SET,
        stance.LABEL_SET,
        xstest.LABEL_SET,
        wikipedia.LABEL_SET,
        news.LABEL_SET,
        web.LABEL_SET,
    )
}


def check_names(names: list[str]) -> None:
    """Raise UserError for an unknown or repeated name."""
    for name in names:
        if name not in LABEL_SETS:
            raise UserError(
                f"sources: unknown label set '{name}'; the nearest is '{nearest(name, list(LABEL_SETS))}' "
                f"(choose from {', '.join(LABEL_SETS)})."
            )
        if names.count(name) > 1:
            raise UserError(f"sources: '{name}' is listed {names.count(name)} times.")


def check_files(names: list[str], folder: str) -> None:
    """Raise UserError if a file of the sets `names` is missing below `folder` or has another checksum."""
    for name in names:
        LABEL_SETS[name].check_files(Path(folder))


def inputs(names: list[str], folder: str) -> dict[str, str]:
    """Return the folder as an input of `artifact.begin`; {} if the sets `names` have no files."""
    return {"data": folder} if any(LABEL_SETS[name].files for name in names) else {}


def load(names: list[str], folder: str, max_rows: int, seed: int) -> list[Row]:
    """Return the rows of the sets `names` below `folder`, at most `max_rows` of each (0: all).

    The rows of a larger set are sampled by `seed`. Texts are stripped; empty and repeated ones are dropped.
    Raises UserError if a file is missing, has another checksum or does not have the expected columns.
    """
    check_names(names)
    check_files(names, folder)
    rows: list[Row] = []
    for name in names:
        label_set = LABEL_SETS[name]
        try:
            read = list(label_set.read(Path(folder)))
        except (KeyError, ValueError, TypeError) as error:
            files = ", ".join(file.path for file in label_set.files)
            raise label_set.error(f"{files} below '{folder}' cannot be read ({error!r})") from error
        unique = {
            row["text"]: row for row in ({**r, "text": r["text"].strip(), "source": name} for r in read)
        }
        unique.pop("", None)
        shuffled = sorted(unique.values(), key=lambda row: stable_hash(seed, "draw", row["id"]))
        rows += sorted(shuffled[: max_rows or None], key=lambda row: str(row["id"]))
    return rows


def summary() -> str:
    """Return the sets with their contents, for `--help`."""
    return ", ".join(f"{label_set.name} ({label_set.contents})" for label_set in LABEL_SETS.values())


def markdown() -> str:
    """Return the table of all sets and the list of their files, for docs/score.md."""
    lines = ["| set | contents | its labels as levels | licence |", "|---|---|---|---|"]
    for label_set in LABEL_SETS.values():
        cells = [
            f"[`{label_set.name}`]({label_set.url})",
            label_set.contents,
            label_set.levels,
            label_set.licence,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for label_set in LABEL_SETS.values():
        files = ", ".join(f"`{file.path}`" for file in label_set.files)
        lines.append(f"- `{label_set.name}`: {files or 'no files'}. {label_set.how_to_get}")
    return "\n".join(lines)
