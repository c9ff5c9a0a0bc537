"""Who speaks in a refusal: its two role names give way to varied persons (paper, section 2).

A model that always reads `User` and `Assistant` would learn that refusals belong to these two words.
The dataset keeps the roles; they are replaced when tokens are made.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from safety_ray.core.records import stable_hash

_ROLE = re.compile(r"^(User|Assistant)(?=: )", re.MULTILINE)


@cache
def everyone() -> tuple[str, ...]:
    """All names and occupations, each once."""
    lines = (resources.files(__package__) / "personas.txt").read_text("utf-8").splitlines()
    return tuple(line for line in lines if line and line[0] not in "#[")


def cast(seed: int, id: str) -> tuple[str, str]:
    """Two different persons for the row `id`: the one who asks and the one who answers."""
    people = everyone()
    asks = stable_hash(seed, id, "asks") % len(people)
    # One of the others, each as likely as the next.
    answers = (asks + 1 + stable_hash(seed, id, "answers") % (len(people) - 1)) % len(people)
    return people[asks], people[answers]


def with_persons(text: str, seed: int, id: str) -> str:
    """The dialogue `text` with persons in place of `User` and `Assistant` at the heads of its turns."""
    names = dict(zip(("User", "Assistant"), cast(seed, id), strict=True))
    return _ROLE.sub(lambda role: names[role.group()], text)
