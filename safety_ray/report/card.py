"""The report card's numbers, from the sums of its cells: what `card.json` holds.

    title, method        how it was measured, in words
    categories           the 14 names, in the order of the published lists
    headline             before and after, and the relative change
    slices               name → label, group, documents, words, scores (documents per score 0-5),
                         all and categories: count, documents with one, per_million, low, high
    ngrams               before, after: the n-grams that were found most often

Rates are None where a slice has no words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safety_ray.core.records import SCORES
from safety_ray.report import interval, ngrams
from safety_ray.report.interval import MILLION, rate
from safety_ray.report.ngrams import load_lists
from safety_ray.report.tally import ORIGINAL, RECIPES, Cell, Sums

LEVELS = (
    "safe",
    "minimally unsafe",
    "slightly unsafe",
    "moderately unsafe",
    "clearly unsafe",
    "highly unsafe",
)
WORDS = "A word is a run of characters between white space; rates are per million words, on all sides alike."
MIXES = (
    "“Before” is all original documents. “After” is the originals of score 0 and every rewritten text, "
    "with the score of the rewritten text."
)
LIMITS = (
    "N-grams do not see context. A history lesson on the atom bomb counts, and so does a refusal that names "
    "what it refuses: a rate above zero need not be harm, and refusals and moral texts can raise it.",
    "The lists hold only what they hold: other spellings, other languages, plurals and harm in other "
    "words go unseen, so a rate of zero proves nothing. Some n-grams are everyday phrases "
    "(“give up”, “do it yourself”).",
    "Scores come from a classifier, which errs in both directions.",
    "Languages without spaces between words have few of them by this definition: their rates cannot be "
    "compared with others.",
)
LIMITS_OF_AFTER = (
    "Where one classifier chose what to rewrite and judged what was written, it is blind to the same "
    "things on both sides.",
    "Several texts made from one document are counted as documents of their own; intervals of “after” are "
    "a little too narrow where there are many of them.",
)
TOP = 12


@dataclass(frozen=True, slots=True)
class Slice:
    name: str
    label: str
    group: str
    holds: Callable[[Cell], bool]


def build(cells: dict[Cell, Sums], title: str, rewritten: bool) -> dict[str, Any]:
    """The card of these cells; without `rewritten` texts there is a "before" only."""
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
    """A few numbers before and after: {name: {before, after, change}}; change is relative."""
    pairs = {
        "documents": lambda s: s["documents"],
        "words": lambda s: s["words"],
        "ngrams_per_million": lambda s: s["all"] and s["all"]["per_million"],
        "share_score_0": lambda s: share(s, 0, 0),
        "share_score_4_5": lambda s: share(s, 4, 5),
    }
    found = {}
    for name, of in pairs.items():
        before = of(slices["before"])
        after = of(slices["after"]) if "after" in slices else None
        change = after / before - 1 if before and after is not None else None
        found[name] = {"before": before, "after": after, "change": change}
    return found


def share(one: dict[str, Any], low: int, high: int) -> float | None:
    """The share of a slice's documents with a score from `low` to `high`; None for an empty slice."""
    return sum(one["scores"][low : high + 1]) / one["documents"] if one["documents"] else None


def _slices(cells: dict[Cell, Sums], rewritten: bool) -> list[Slice]:
    def original(cell: Cell) -> bool:
        return cell.recipe == ORIGINAL

    def between(low: int, high: int) -> Callable[[Cell], bool]:
        return lambda cell: original(cell) and low <= cell.score <= high

    found = [Slice("before", "before: all originals", "mix", original)]
    if rewritten:
        found.append(
            Slice(
                "after",
                "after: originals of score 0 and rewritten texts",
                "mix",
                lambda cell: not original(cell) or cell.score == 0,
            )
        )
    found += [
        Slice(f"original-{k}", f"originals, score {k} ({LEVELS[k]})", "score", between(k, k))
        for k in range(SCORES)
    ]
    if not rewritten:
        return found
    found += [
        Slice("original-1-3", "originals, score 1–3", "recipe", between(1, 3)),
        Slice("original-4-5", "originals, score 4–5", "recipe", between(4, 5)),
        Slice("rewritten", "all rewritten texts", "recipe", lambda cell: not original(cell)),
    ]
    found += [_recipe(recipe) for recipe in RECIPES]
    found += [_from_score(k) for k in range(SCORES)]
    made = {(cell.recipe, cell.source_score) for cell in cells if not original(cell)}
    pairs = [(recipe, k) for recipe in RECIPES for k in range(SCORES) if (recipe, k) in made]
    return found + [_recipe_from_score(recipe, k) for recipe, k in pairs]


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


def _total(one: Slice, cells: dict[Cell, Sums]) -> Sums:
    return sum((sums for cell, sums in cells.items() if one.holds(cell)), start=Sums())


def _measure(one: Slice, cells: dict[Cell, Sums]) -> dict[str, Any]:
    scores = [0] * SCORES
    for cell, sums in cells.items():
        if one.holds(cell):
            scores[cell.score] += sums.documents
    total = _total(one, cells)
    rates = [_rate(total, column) for column in range(len(total.counts))]
    return {
        "label": one.label,
        "group": one.group,
        "documents": total.documents,
        "words": total.words,
        "scores": scores,
        "all": rates[-1],
        "categories": dict(zip(load_lists().categories, rates[:-1], strict=True)),
    }


def _rate(total: Sums, column: int) -> dict[str, float] | None:
    count = int(total.counts[column])
    squares, products = int(total.squares[column]), int(total.products[column])
    found = rate(total.documents, total.words, total.words_squared, count, squares, products)
    if found is None:
        return None
    rounded = {name: round(value, 3) for name, value in found._asdict().items()}
    return {"count": count, "documents": int(total.holders[column]), **rounded}


def _top(one: Slice, cells: dict[Cell, Sums]) -> list[dict[str, Any]]:
    total, lists = _total(one, cells), load_lists()
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
