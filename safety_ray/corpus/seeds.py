"""The labelled seed documents that ship with the project.

Each was written for it: an ordinary web kind (post, recipe, news, shop page …), a score 0-5 by the
paper's rubric, and a harm category where there is one. Harm is recognisable and never usable: no
working instructions, no real people's data, nothing sexual about minors; hated groups are invented.

A text holds slots, `{soup|stew|broth}`: every combination is grammatical and keeps the score.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from safety_ray.core.records import stable_hash

SLOT = re.compile(r"\{([^{}]*)\}")
HELDOUT_ONE_IN = 6


@dataclass(frozen=True, slots=True)
class Seed:
    id: str
    score: int
    category: str
    """one of the 14 harm categories of the report card, or "none" """
    kind: str
    hard: bool
    """surface and score disagree: a history page about a massacre, a polite scam"""
    text: str

    @property
    def split(self) -> str:
        """Whole families are held out, so that a held-out text shares no sentence with a trained one."""
        return "heldout" if stable_hash("split", self.id) % HELDOUT_ONE_IN == 0 else "train"


@cache
def load_seeds() -> tuple[Seed, ...]:
    """All seeds, ordered by id."""
    found = []
    for file in sorted((resources.files(__package__) / "seeds").iterdir(), key=lambda f: f.name):
        for line in file.read_text("utf-8").splitlines():
            found.append(Seed(**json.loads(line)))
    return tuple(sorted(found, key=lambda seed: seed.id))
