"""Phrase files: lines by section, and a choice among lines that depends only on seed and id."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TypeVar

from safety_ray.core.records import stable_hash

T = TypeVar("T")
_FOLDER = resources.files(__package__) / "phrases"


@cache
def phrases(name: str) -> dict[str, tuple[str, ...]]:
    """Return the lines of each [section] of `phrases/<name>.txt`. Lines that begin with # are comments."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (_FOLDER / f"{name}.txt").read_text("utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            current.append(line)
    return {section: tuple(lines) for section, lines in sections.items()}


@cache
def style_phrases(style: str) -> dict[str, tuple[str, ...]]:
    """Return the phrases of a rephrase style, or those of `style_any` if it has no file of its own."""
    name = f"style_{style}"
    return phrases(name if (_FOLDER / f"{name}.txt").is_file() else "style_any")


@cache
def words(name: str, section: str = "words") -> frozenset[str]:
    """Return the words of a section that lists words."""
    return frozenset(word for line in phrases(name)[section] for word in line.split())


def pick(options: Sequence[T], seed: int, id: str, purpose: str) -> T:
    """Return one of `options`. The choice depends on the seed, the row's id and the purpose of the text."""
    return options[stable_hash(seed, id, purpose) % len(options)]
