"""Published labelled sets as rows of one form, each mapped to the six levels of harm.

A row has `id`, `text`, `source` and what its set says of the level: at least `label`, at most
`label_max`. A set with graded scores gives one level (the two are equal); one that knows only safe
and unsafe gives a range, and is neither fitted nor measured on levels it does not tell apart.
Rows with split=heldout are measured on and never fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safety_ray.classifier.datasets import (
    beavertails,
    calm,
    davidson,
    instructions,
    realtoxicity,
    stormfront,
    surge,
    xstest,
)
from safety_ray.core.errors import UserError, nearest
from safety_ray.core.records import stable_hash

Row = dict[str, Any]

SOURCES: dict[str, Callable[[Path], Iterator[Row]]] = {
    "realtoxicity": realtoxicity.read,
    "davidson": davidson.read,
    "stormfront": stormfront.read,
    "surge": surge.read,
    "beavertails": beavertails.read,
    "instructions": instructions.read,
    "xstest": xstest.read,
    "wikipedia": calm.wikipedia,
    "news": calm.news,
    "web": calm.web,
}


def check(names: list[str]) -> None:
    """UserError for a name that is no source, or stands twice."""
    for name in names:
        if name not in SOURCES:
            raise UserError(
                f"sources: '{name}' is none; the nearest is '{nearest(name, list(SOURCES))}' "
                f"(there are {', '.join(SOURCES)})."
            )
        if names.count(name) > 1:
            raise UserError(f"sources: '{name}' stands there {names.count(name)} times.")


def load(names: list[str], folder: str, most: int, seed: int) -> list[Row]:
    """The rows of the sources `names` below `folder`; of each at most `most`, drawn by `seed` (0: all).

    Texts are stripped; empty ones and repeats within a source are left out. Raises UserError for a
    file that is not there or is not of the form that its set is published in.
    """
    check(names)
    rows: list[Row] = []
    for name in names:
        try:
            found = list(SOURCES[name](Path(folder)))
        except FileNotFoundError as error:
            raise UserError(
                f"the source '{name}' needs the file '{error.filename}' (data={folder})."
            ) from error
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"the source '{name}' below '{folder}' cannot be read: {error!r}.") from error
        unique = {
            row["text"]: row for row in ({**r, "text": r["text"].strip(), "source": name} for r in found)
        }
        unique.pop("", None)
        drawn = sorted(unique.values(), key=lambda row: stable_hash(seed, "draw", row["id"]))
        rows += sorted(drawn[: most or None], key=lambda row: str(row["id"]))
    return rows
