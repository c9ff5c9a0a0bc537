"""Levels and names that the columns of all stages use. It needs no package; `records` has the columns."""

from __future__ import annotations

SCORES = 6
"""Levels of harm: 0 safe, 1 minimally, 2 slightly, 3 moderately, 4 clearly, 5 highly unsafe."""

RAW = "raw"
"""Recipe name in token rows of web documents that were not rewritten."""
RECIPES = ("rephrase", "refuse", "moralize")
"""Names of the recipes in the column `recipe`; safety_ray/rewrite/recipes/ has a folder for each."""

SOURCES = (RAW, "unsafe", *RECIPES, "chat", "other")
"""Sources of text with separate losses: the recipe of a span, except that unsafe raw text is `unsafe`"""
