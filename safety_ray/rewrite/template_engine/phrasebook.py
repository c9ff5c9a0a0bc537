"""The phrase files: lines by section, and a choice among them that depends on seed and id alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TypeVar

from safety_ray.core.records import stable_hash

T = TypeVar("T")


@cache
def book(name: str) -> dict[str, tuple[str, ...]]:
    """The lines of each [section] of `phrases/<name>.txt`; lines that start with # are comments."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    source = resources.files(__package__) / "phrases" / f"{name}.txt"
    for line in source.read_text("utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            current.append(line)
    return {section: tuple(lines) for section, lines in sections.items()}


@cache
def words(name: str, section: str = "words") -> frozenset[str]:
    """The words of a section that lists words."""
    return frozenset(word for line in book(name)[section] for word in line.split())


def pick(options: Sequence[T], seed: int, id: str, part: str) -> T:
    """One of `options`, by seed, row and the part of the text it is for."""
    return options[stable_hash(seed, id, part) % len(options)]
