"""Find the harmful n-grams of the paper's 14 categories in a text.

`harm_ngrams.json` has the lists published with Safety Pretraining (arXiv 2504.16980): each category with its
n-grams in lower case. The paper does not specify how they were matched. The rule here is `RULE`, which every
report card states.
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
    "Texts and n-grams are compared after Unicode NFKC normalization and case folding, without invisible "
    "characters; any white space counts as one space, and so does a hyphen inside a word (“self-harm” equals "
    "“self harm”). Only whole words match: “mass shootings” does not match “mass shooting”. Every n-gram "
    "counts at each of its positions, so “self harm advice” also contains “self harm”; an n-gram in two "
    "lists counts in both categories, and once in the total."
)

_INVISIBLE = re.compile("[\u00ad\u200b\u200c\u200d\u2060\ufeff]")
# NFKC has turned the other hyphens (no-break, small, full width) into these two.
_HYPHEN = re.compile("[-\u2010](?<=\\w.)(?=\\w)")


@dataclass(frozen=True, slots=True)
class NgramLists:
    """The published lists, with indices for categories and n-grams."""

    categories: tuple[str, ...]
    ngrams: tuple[str, ...]
    """normalized, without duplicates"""
    members: tuple[tuple[int, ...], ...]
    """for each n-gram, the indices of the categories that list it"""


@cache
def load_lists() -> NgramLists:
    """Load the published lists. An n-gram that a list repeats is taken once."""
    file = resources.files(__package__) / "harm_ngrams.json"
    lists: dict[str, list[str]] = json.loads(file.read_text("utf-8"))
    members: dict[str, list[int]] = {}
    for index, category in enumerate(lists):
        for ngram in dict.fromkeys(map(normalize, lists[category])):
            members.setdefault(ngram, []).append(index)
    return NgramLists(tuple(lists), tuple(members), tuple(map(tuple, members.values())))


def normalize(text: str) -> str:
    """Return `text` in the form in which n-grams are compared; see `RULE`."""
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    text = " ".join(text.casefold().split())
    return _HYPHEN.sub(" ", text)


def find_ngrams(text: str) -> Counter[int]:
    """Return the number of occurrences of each n-gram in `text`, by index in `load_lists().ngrams`."""
    counts: Counter[int] = Counter()
    text = normalize(text)
    for end, (index, length) in _automaton().iter(text):
        start = end - length
        if not (start >= 0 and _in_word(text[start])) and not (
            end + 1 < len(text) and _in_word(text[end + 1])
        ):
            counts[index] += 1
    return counts


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"  # equals \w of Python's re


@cache
def _automaton() -> ahocorasick.Automaton:
    automaton = ahocorasick.Automaton()
    for index, ngram in enumerate(load_lists().ngrams):
        automaton.add_word(ngram, (index, len(ngram)))
    automaton.make_automaton()
    return automaton
