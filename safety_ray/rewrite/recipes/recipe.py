"""The three ways in which a document is rewritten (paper, section 2).

A recipe is a prompt file of the same name, the scores it is for, and a parser of the engine's reply,
which also tells whether the reply has the recipe's form. What a text must hold against its source is in
`acceptance`. A new recipe is a prompt file and a line in `RECIPES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from safety_ray.rewrite import parse


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    scores: tuple[int, ...]
    """the paper's scores of the web documents it is for; moralize reads accepted refusals of these"""
    text: Callable[[str], str]
    """reply to the row's text; ValueError says why the reply gives none"""


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("rephrase", (1, 2, 3), parse.prose),
        Recipe("refuse", (4, 5), parse.refusal),
        Recipe("moralize", (4, 5), parse.page),
    )
}
