"""Who speaks in a refusal: role names give way to varied persons, so that none becomes the habit."""

from __future__ import annotations

from safety_ray.rewrite.phrasebook import book, pick


def cast(seed: int, id: str) -> tuple[str, str]:
    """Two different names or occupations, for the one who asks and the one who answers."""
    names = book("names")
    everyone = names["person"] + names["occupation"]
    first = pick(everyone, seed, id, "asks")
    return first, pick([name for name in everyone if name != first], seed, id, "answers")
