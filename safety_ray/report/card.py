"""Compute the numbers of the report card, which are written to `card.json`.

    title, method        the title, and a description of the method
    categories           the 14 names, in the order of the published lists
    headline             before and after, and the relative change
    slices               name → label, group, documents, words, scores (documents for each score 0-5),
                         all and categories: count, documents with one, per_million, low, high
    ngrams               before, after: the most frequent n-grams

Rates are None if a slice has no words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safety_ray.core.records import RECIPES, SCORES
from safety_ray.report import interval, ngrams
from safety_ray.report.interval import MILLION, estimate_rate
from safety_ray.report.ngrams import load_lists
from safety_ray.report.tally import ORIGINAL, Cell, Sums

LEVELS = (
    "safe",
    "minimally unsafe",
    "slightly unsafe",
    "moderately unsafe",
    "clearly unsafe",
    "highly unsafe",
)
BANDS = {"original-1-3": (1, 3), "original-4-5": (4, 5)}
"""Slices of original documents by score, for comparison with the texts rewritten from them."""
WORDS = "A word is a sequence of characters between white space. All rates are per million words."
MIXES = (
    "“Before” is all original documents. “After” is the original documents of score 0 and all rewritten "
    "texts, with the scores of the rewritten texts."
)
LIMITS = (
    "N-grams ignore context. A history lesson on the atom bomb counts, and so does a refusal that names the "
    "request: a rate above zero does not imply harm, and refusals and moral texts can raise it.",
    "The lists are incomplete: other spellings, other languages, plurals and harm in other words are not "
    "counted, so a rate of zero proves nothing. Some n-grams are everyday phrases (“give up”, “do it "
    "yourself”).",
    "Scores are predictions of a classifier, which errs in both directions.",
    "Languages without spaces between words have few words by this definition: their rates cannot be "
    "compared with those of other languages.",
)
LIMITS_OF_AFTER = (
    "If one classifier selected the documents to rewrite and scored the rewritten texts, it misses the same "
    "kinds of harm before and after.",
    "Several texts made from one document are counted as separate documents; if there are many of them, the "
    "intervals of “after” are slightly too narrow.",
)
TOP = 12
"""the number of most frequent n-grams in the card"""


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the documents for which the card has numbers."""

    name: str
    label: str
    group: str
    contains: Callable[[Cell], bool]


def build_card(cells: dict[Cell, Sums], title: str, rewritten: bool) -> dict[str, Any]:
    """Return the card of these cells. Without `rewritten` texts it has no "after"."""
    slices = {s.name: _measure(s, cells) for s in _slices(cells, rewritten)}
    lists = load_lists()
    return {
        "title": title,
        "method": {
            "paper": "Safety Pretraining, arXiv 2504.16980, section 3",
            "words": WORDS,
            "mixes": MIXES,
            "matching": ngrams.RULE,
            "intervals": interval.METHOD,
            "lists": f"{len(lists.ngrams)} n-grams in {len(lists.categories)} lists, from {ngrams.SOURCE}.",
            "limits": [*LIMITS, *(LIMITS_OF_AFTER if rewritten else ())],
        },
        "categories": list(lists.categories),
        "headline": headline(slices),
        "slices": slices,
        "ngrams": {s.name: _top(s, cells) for s in _slices(cells, rewritten) if s.group == "mix"},
    }


def headline(slices: dict[str, Any]) -> dict[str, Any]:
    """Return the main numbers as {name: {before, after, change}}; change is relative."""
    measures = {
        "documents": lambda s: s["documents"],
        "words": lambda s: s["words"],
        "ngrams_per_million": lambda s: s["all"] and s["all"]["per_million"],
        "share_score_0": lambda s: share(s, 0, 0),
        "share_score_4_5": lambda s: share(s, 4, 5),
    }
    numbers = {}
    for name, measure in measures.items():
        before = measure(slices["before"])
        after = measure(slices["after"]) if "after" in slices else None
        change = after / before - 1 if before and after is not None else None
        numbers[name] = {"before": before, "after": after, "change": change}
    return numbers


def share(slice_: dict[str, Any], low: int, high: int) -> float | None:
    """Return the share of a slice's documents with a score from `low` to `high`; None for an empty slice."""
    return sum(slice_["scores"][low : high + 1]) / slice_["documents"] if slice_["documents"] else None


def scores_of(slices: dict[str, Any], recipe: str) -> list[int]:
    """Return the scores of the documents from which a recipe's texts were made."""
    return [score for score in range(SCORES) if f"{recipe}-from-{score}" in slices]


def _slices(cells: dict[Cell, Sums], rewritten: bool) -> list[Slice]:
    def original(cell: Cell) -> bool:
        return cell.recipe == ORIGINAL

    def between(low: int, high: int) -> Callable[[Cell], bool]:
        return lambda cell: original(cell) and low <= cell.score <= high

    slices = [Slice("before", "before: all originals", "mix", original)]
    if rewritten:
        slices.append(
            Slice(
                "after",
                "after: originals of score 0 and rewritten texts",
                "mix",
                lambda cell: not original(cell) or cell.score == 0,
            )
        )
    slices += [
        Slice(f"original-{k}", f"originals, score {k} ({LEVELS[k]})", "score", between(k, k))
        for k in range(SCORES)
    ]
    if not rewritten:
        return slices
    slices += [
        Slice(name, f"originals, score {low}–{high}", "recipe", between(low, high))
        for name, (low, high) in BANDS.items()
    ]
    slices.append(Slice("rewritten", "all rewritten texts", "recipe", lambda cell: not original(cell)))
    slices += [_recipe(recipe) for recipe in RECIPES]
    slices += [_from_score(k) for k in range(SCORES)]
    sources = {(cell.recipe, cell.source_score) for cell in cells if not original(cell)}
    pairs = [(recipe, k) for recipe in RECIPES for k in range(SCORES) if (recipe, k) in sources]
    return slices + [_recipe_from_score(recipe, k) for recipe, k in pairs]


def _recipe(recipe: str) -> Slice:
    return Slice(recipe, f"rewritten by {recipe}", "recipe", lambda cell: cell.recipe == recipe)


def _from_score(k: int) -> Slice:
    return Slice(
        f"rewritten-from-{k}",
        f"rewritten from score {k}",
        "source score",
        lambda cell: cell.recipe != ORIGINAL and cell.source_score == k,
    )


def _recipe_from_score(recipe: str, k: int) -> Slice:
    return Slice(
        f"{recipe}-from-{k}",
        f"rewritten by {recipe} from score {k}",
        "recipe and source score",
        lambda cell: cell.recipe == recipe and cell.source_score == k,
    )


def _total(slice_: Slice, cells: dict[Cell, Sums]) -> Sums:
    return sum((sums for cell, sums in cells.items() if slice_.contains(cell)), start=Sums())


def _measure(slice_: Slice, cells: dict[Cell, Sums]) -> dict[str, Any]:
    scores = [0] * SCORES
    for cell, sums in cells.items():
        if slice_.contains(cell):
            scores[cell.score] += sums.documents
    total = _total(slice_, cells)
    rates = [_rate(total, column) for column in range(len(total.counts))]
    return {
        "label": slice_.label,
        "group": slice_.group,
        "documents": total.documents,
        "words": total.words,
        "scores": scores,
        "all": rates[-1],
        "categories": dict(zip(load_lists().categories, rates[:-1], strict=True)),
    }


def _rate(total: Sums, column: int) -> dict[str, float] | None:
    count = int(total.counts[column])
    squares, products = int(total.squares[column]), int(total.products[column])
    rate = estimate_rate(total.documents, total.words, total.words_squared, count, squares, products)
    if rate is None:
        return None
    rounded = {name: round(value, 3) for name, value in rate._asdict().items()}
    return {"count": count, "documents": int(total.holders[column]), **rounded}


def _top(slice_: Slice, cells: dict[Cell, Sums]) -> list[dict[str, Any]]:
    total, lists = _total(slice_, cells), load_lists()
    order = sorted((-int(n), lists.ngrams[i], i) for i, n in enumerate(total.ngrams) if n)[:TOP]
    return [
        {
            "ngram": ngram,
            "categories": [lists.categories[c] for c in lists.members[i]],
            "count": -n,
            "per_million": round(-n / total.words * MILLION, 3),
        }
        for n, ngram, i in order
    ]
