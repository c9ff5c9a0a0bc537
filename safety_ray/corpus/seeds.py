"""The labelled seed documents that ship with the project.

Each was written for this project and has a kind of web page (post, recipe, news, shop page …), a score 0-5
by the paper's rubric, and a harm category. Harm is recognisable but not usable: no working instructions, no
data of real people, nothing sexual about minors; targeted groups are invented.

A text has slots, `{soup|stew|broth}`: every combination is grammatical and has the same score.
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
    """A seed document with its labels."""

    id: str
    score: int
    category: str
    """one of the 14 harm categories of the report card, or "none" """
    kind: str
    hard: bool
    """the style does not match the score: a history page about a massacre, a polite scam"""
    text: str

    @property
    def split(self) -> str:
        """Whole families are held out, so that no held-out text shares a sentence with a training text."""
        return "heldout" if stable_hash("split", self.id) % HELDOUT_ONE_IN == 0 else "train"


@cache
def load_seeds() -> tuple[Seed, ...]:
    """Return all seeds, ordered by id."""
    seeds = []
    for file in sorted((resources.files(__package__) / "seeds").iterdir(), key=lambda f: f.name):
        for line in file.read_text("utf-8").splitlines():
            seeds.append(Seed(**json.loads(line)))
    return tuple(sorted(seeds, key=lambda seed: seed.id))
