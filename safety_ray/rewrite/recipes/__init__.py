"""The registry of recipes. A recipe is a folder with a prompt, styles, a parser and its declaration.

To add a recipe, see docs/how-to/add-a-recipe.md; to add a style, docs/how-to/add-a-style.md.
"""

from __future__ import annotations

from typing import Any

from safety_ray.rewrite.recipes.moralize import MORALIZE
from safety_ray.rewrite.recipes.recipe import Recipe
from safety_ray.rewrite.recipes.refuse import REFUSE
from safety_ray.rewrite.recipes.rephrase import REPHRASE

__all__ = ["RECIPES", "SHORT", "Recipe", "write_from_template"]

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (REPHRASE, REFUSE, MORALIZE)}
"""Every recipe by name. A recipe that rewrites texts of another one comes after it."""

SHORT: dict[str, Recipe] = {name: recipe.short for name, recipe in RECIPES.items()}
"""The recipes with their short prompts"""


def write_from_template(row: dict[str, Any], seed: int) -> str:
    """Write the reply to a task without a language model."""
    template = RECIPES[row["recipe"]].template
    if template is None:
        raise ValueError(f"recipe '{row['recipe']}' has no template")
    return template(row, seed)
