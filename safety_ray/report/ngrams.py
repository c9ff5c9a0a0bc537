"""Where the harmful n-grams of the paper's 14 categories stand in a text.

`harm_ngrams.json` holds the lists published with Safety Pretraining (arXiv 2504.16980): a category
and its n-grams, lower case. The paper does not say how they were matched; the rule here is `RULE`,
and every report card states it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources

import ahocorasick

SOURCE = "Safety Pretraining, arXiv 2504.16980"
RULE = (
    "Texts and n-grams are compared after Unicode NFKC and case folding, without invisible characters; any "
    "white space counts as one space, and so does a hyphen inside a word (“self-harm” is “self harm”). "
    "Only whole words match: “mass shootings” is no “mass shooting”. Every n-gram counts wherever "
    "it stands, so “self harm advice” is also a “self harm”; one that stands in two lists counts in both "
    "categories, and once in the total."
)

_INVISIBLE = re.compile("[\u00ad\u200b\u200c\u200d\u2060\ufeff]")
# NFKC has turned the other hyphens (no-break, small, full width) into these two.
_HYPHEN = re.compile("[-\u2010](?<=\\w.)(?=\\w)")


@dataclass(frozen=True, slots=True)
class NgramLists:
    categories: tuple[str, ...]
    ngrams: tuple[str, ...]
    """normalized, each once"""
    members: tuple[tuple[int, ...], ...]
    """for each n-gram, the indices of the categories that list it"""


@cache
def load_lists() -> NgramLists:
    """The published lists; an n-gram that a list repeats is taken once."""
    file = resources.files(__package__) / "harm_ngrams.json"
    lists: dict[str, list[str]] = json.loads(file.read_text("utf-8"))
    members: dict[str, list[int]] = {}
    for place, category in enumerate(lists):
        for ngram in dict.fromkeys(map(normalize, lists[category])):
            members.setdefault(ngram, []).append(place)
    return NgramLists(tuple(lists), tuple(members), tuple(map(tuple, members.values())))


def normalize(text: str) -> str:
    """`text` in the form in which n-grams are compared; see `RULE`."""
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    text = " ".join(text.casefold().split())
    return _HYPHEN.sub(" ", text)


def find_ngrams(text: str) -> Counter[int]:
    """How often each n-gram (its index in `load_lists().ngrams`) stands in `text`; absent: never."""
    found: Counter[int] = Counter()
    text = normalize(text)
    for end, (index, length) in _automaton().iter(text):
        start = end - length
        if not (start >= 0 and _in_word(text[start])) and not (
            end + 1 < len(text) and _in_word(text[end + 1])
        ):
            found[index] += 1
    return found


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"  # what \w means to Python's re


@cache
def _automaton() -> ahocorasick.Automaton:
    automaton = ahocorasick.Automaton()
    for index, ngram in enumerate(load_lists().ngrams):
        automaton.add_word(ngram, (index, len(ngram)))
    automaton.make_automaton()
    return automaton
