"""Compute the numbers of the report card, which are written to `card.json`.

    title, method        the title, and a description of the method
    categories           the 14 names, in the order of the published lists
    outcomes             original documents and words: all; with rewritten texts also kept, rewritten and
                         lost, of which rewritten has the texts and text_words made from them
    headline             before and after: count, value, low, high; and the relative change
    slices               name → label, group, documents, words, scores (documents for each score 0-5),
                         all and categories: count, documents with one, per_million, low, high
    ngrams               before, after: the most frequent n-grams

Rates are None if a slice has no words. A change is None if it rests on fewer than ten hits before or after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safety_ray.core.records import RECIPES, SCORES
from safety_ray.report import interval, ngrams
from safety_ray.report.interval import FEW, MILLION, estimate_rate, share_interval
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
    "“Before” is all original documents. “After” is the original documents of {kept}, which are kept "
    "unchanged, and all rewritten texts, with the scores of the rewritten texts. A document with a higher "
    "score and no accepted rewritten text is lost."
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


def build_card(cells: dict[Cell, Sums], title: str, rewritten: bool, threshold: int = 1) -> dict[str, Any]:
    """Return the card of these cells. Without `rewritten` texts it has no "after".

    Original documents with a score below `threshold` are kept unchanged.
    """
    kept = "score 0" if threshold == 1 else f"score 0–{threshold - 1}"
    parts = _slices(cells, rewritten, threshold, kept)
    slices = {s.name: _measure(s, cells) for s in parts}
    lists = load_lists()
    return {
        "title": title,
        "method": {
            "paper": "Safety Pretraining, arXiv 2504.16980, section 3",
            "words": WORDS,
            "kept": kept,
            "mixes": MIXES.format(kept=kept),
            "matching": ngrams.RULE,
            "intervals": interval.METHOD,
            "lists": f"{len(lists.ngrams)} n-grams in {len(lists.categories)} lists, from {ngrams.SOURCE}.",
            "limits": [*LIMITS, *(LIMITS_OF_AFTER if rewritten else ())],
        },
        "categories": list(lists.categories),
        "outcomes": outcomes(cells, rewritten, threshold),
        "headline": headline(slices),
        "slices": slices,
        "ngrams": {s.name: _top(s, cells) for s in parts if s.group == "mix"},
    }


def outcomes(cells: dict[Cell, Sums], rewritten: bool, threshold: int) -> dict[str, dict[str, int]]:
    """Return how many original documents and words were kept unchanged, rewritten and lost."""

    def total(contains: Callable[[Cell], bool]) -> dict[str, int]:
        sums = _total(Slice("", "", "", contains), cells)
        return {"documents": sums.documents, "words": sums.words}

    def original(cell: Cell) -> bool:
        return cell.recipe == ORIGINAL

    parts = {"all": total(original)}
    if not rewritten:
        return parts
    texts = total(lambda cell: not original(cell))
    return parts | {
        "kept": total(lambda cell: original(cell) and cell.score < threshold),
        "rewritten": {
            **total(lambda cell: original(cell) and cell.score >= threshold and cell.rewritten),
            "texts": texts["documents"],
            "text_words": texts["words"],
        },
        "lost": total(lambda cell: original(cell) and cell.score >= threshold and not cell.rewritten),
    }


def headline(slices: dict[str, Any]) -> dict[str, Any]:
    """Return the main numbers as {name: {before, after, change}}; change is relative."""
    measures: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
        "ngrams_per_million": _ngram_rate,
        "share_score_0": lambda s: estimate_share(s, 0, 0),
        "share_score_4_5": lambda s: estimate_share(s, 4, 5),
    }
    numbers = {}
    for name, measure in measures.items():
        before = measure(slices["before"])
        after = measure(slices["after"]) if "after" in slices else None
        enough = before and after and min(before["count"], after["count"]) >= FEW
        change = after["value"] / before["value"] - 1 if before and after and enough else None
        numbers[name] = {"before": before, "after": after, "change": change}
    return numbers


def _ngram_rate(slice_: dict[str, Any]) -> dict[str, Any] | None:
    rate = slice_["all"]
    if rate is None:
        return None
    return {"count": rate["count"], "value": rate["per_million"], "low": rate["low"], "high": rate["high"]}


def estimate_share(slice_: dict[str, Any], low: int, high: int) -> dict[str, Any] | None:
    """Return count, value and interval of a slice's share of documents with a score from `low` to `high`.

    Returns None for an empty slice.
    """
    if not slice_["documents"]:
        return None
    count = sum(slice_["scores"][low : high + 1])
    ends = share_interval(count, slice_["documents"])
    return {"count": count, "value": count / slice_["documents"], "low": ends[0], "high": ends[1]}


def scores_of(slices: dict[str, Any], recipe: str) -> list[int]:
    """Return the scores of the documents from which a recipe's texts were made."""
    return [score for score in range(SCORES) if f"{recipe}-from-{score}" in slices]


def _slices(cells: dict[Cell, Sums], rewritten: bool, threshold: int, kept: str) -> list[Slice]:
    def original(cell: Cell) -> bool:
        return cell.recipe == ORIGINAL

    def between(low: int, high: int) -> Callable[[Cell], bool]:
        return lambda cell: original(cell) and low <= cell.score <= high

    slices = [Slice("before", "before: all originals", "mix", original)]
    if rewritten:
        slices.append(
            Slice(
                "after",
                f"after: originals of {kept} and rewritten texts",
                "mix",
                lambda cell: not original(cell) or cell.score < threshold,
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
