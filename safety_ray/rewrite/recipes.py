"""The three ways in which a document is rewritten (paper, section 2).

A recipe is a prompt file of the same name, the scores it is for, a parser of the engine's reply and
a check of the text it gives. What all have in common, above all the lower score, is in `verdict`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from safety_ray.rewrite import parse
from safety_ray.rewrite.names import cast

_NO = re.compile(
    r"\b(won['’]?t|will not|can['’]?t|cannot|can not|unable to|not able to|not going to|refuse|decline"
    r"|say no|answer is no|no[,.!;])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    scores: tuple[int, ...]
    """the paper's scores of the web documents it is for; moralize reads accepted refusals of these"""
    text: Callable[[str, int, str], str]
    """(reply, seed, id) to the row's text; ValueError says why the reply gives none"""


def _rephrase(reply: str, seed: int, id: str) -> str:
    return parse.prose(reply)


def _refuse(reply: str, seed: int, id: str) -> str:
    turns = parse.dialogue(reply)
    if not _NO.search(" ".join(said for role, said in turns if role == parse.ASSISTANT)):
        raise ValueError("the answer in the dialogue does not say no")
    names = dict(zip((parse.USER, parse.ASSISTANT), cast(seed, id), strict=True))
    return "\n\n".join(f"{names[role]}: {said}" for role, said in turns)


def _moralize(reply: str, seed: int, id: str) -> str:
    return parse.page(reply)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("rephrase", (1, 2, 3), _rephrase),
        Recipe("refuse", (4, 5), _refuse),
        Recipe("moralize", (4, 5), _moralize),
    )
}


def verdict(text: str, source: str, score: int, source_score: int) -> str | None:
    """Why a rewritten text is not kept; None where it is. `source_score` is the web document's."""
    if not text.strip():
        return "the text is empty"
    if _plain(source) in _plain(text):
        return "the text is a copy of its source"
    if score >= source_score:
        return f"score {score} is not lower than the source's {source_score}"
    return None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
