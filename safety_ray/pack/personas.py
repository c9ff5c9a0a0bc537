"""Replace the two role names of refusal dialogues by varied personas (paper, section 2).

A model that always reads `User` and `Assistant` would associate refusals with these two words. The dataset
keeps the role names; they are replaced when documents are encoded.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from safety_ray.core.records import stable_hash

_ROLE = re.compile(r"^(User|Assistant)(?=: )", re.MULTILINE)


@cache
def all_personas() -> tuple[str, ...]:
    """Return all names and occupations, without duplicates."""
    lines = (resources.files(__package__) / "personas.txt").read_text("utf-8").splitlines()
    return tuple(line for line in lines if line and line[0] not in "#[")


def sample_personas(seed: int, id: str) -> tuple[str, str]:
    """Return two different personas for the row `id`: the one who asks and the one who answers."""
    personas = all_personas()
    asks = stable_hash(seed, id, "asks") % len(personas)
    # Uniform over the other personas.
    answers = (asks + 1 + stable_hash(seed, id, "answers") % (len(personas) - 1)) % len(personas)
    return personas[asks], personas[answers]


def with_personas(text: str, seed: int, id: str) -> str:
    """Return the dialogue `text` with personas in place of `User` and `Assistant` at the start of turns."""
    names = dict(zip(("User", "Assistant"), sample_personas(seed, id), strict=True))
    return _ROLE.sub(lambda role: names[role.group()], text)
