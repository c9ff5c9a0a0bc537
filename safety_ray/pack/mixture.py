"""The mixture: how often each source of documents is read, and between which shares of training.

A document's place is a number in [0, 1), the share of training tokens before it. Without a mixture it is the
document's hash. With a mixture, a source is read from `start` until `until`. Every part of training must have
the same number of tokens, so sources that are read throughout are read less while others are present: `Order`
computes the share of each source that is read in each interval between two such points.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.config import from_dict, setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import RAW, RECIPES, SCORES

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

REST = ""
"""Name of the documents that no source names: read once, throughout training"""
_ALL_SCORES = pa.array(range(SCORES), pa.int8())
_MAX_ITERATIONS, _CONVERGED, _TOLERANCE = 5_000, 1e-9, 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A source of the mixture: documents of one recipe and some scores."""

    recipe: str = setting(f"{RAW}, or a recipe: {', '.join(RECIPES)}", default=RAW)
    scores: list[int] = setting(
        "scores of the documents' roots, the web documents they were made from",
        factory=lambda: list(range(SCORES)),
    )
    weight: float = setting("times each document is read; below 1: share of the documents read", default=1.0)
    start: float = setting("share of training after which the documents are read", default=0.0)
    until: float = setting("share of training until which the documents are read", default=1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.until <= 1:
            raise UserError(f"start={self.start} and until={self.until}: must be 0 <= start < until <= 1.")
        if not 0 < self.weight <= 100:
            raise UserError(f"weight={self.weight}: must be above 0 and at most 100.")
        if not self.scores or any(score not in range(SCORES) for score in self.scores):
            raise UserError(f"scores={self.scores}: must be one or more of 0 to {SCORES - 1}.")


def sources(values: Mapping[str, Any]) -> dict[str, Source]:
    """Return the sources of a config's mixture. Raises UserError if two of them include a document."""
    mixture: dict[str, Source] = {}
    owner: dict[tuple[str, int], str] = {}
    for name, settings in values.items():
        if not isinstance(settings, Mapping):
            raise UserError(f"mixture.{name}={settings!r} must be a group of settings, as {{recipe: raw}}.")
        try:
            source = from_dict(Source, dict(settings), f"mixture.{name}")
        except UserError as error:
            raise UserError(f"mixture.{name}: {error}") from None
        if source.recipe not in (RAW, *RECIPES):
            recipes = ", ".join((RAW, *RECIPES))
            raise UserError(
                f"mixture.{name}.recipe: unknown recipe '{source.recipe}'; choose from {recipes}."
            )
        for score in source.scores:
            other = owner.setdefault((source.recipe, score), name)
            if other != name:
                raise UserError(
                    f"mixture.{name} and mixture.{other} both include {source.recipe} documents "
                    f"of score {score}."
                )
        mixture[name] = source
    return mixture


class Order:
    """Computes documents' places in training from their hashes.

    Args:
        mixture: the sources by name.
        tokens: number of tokens of each recipe and score.

    Raises:
        UserError: the mixture cannot give every part of training the same number of tokens.
    """

    def __init__(self, mixture: Mapping[str, Source], tokens: Mapping[tuple[str, int | None], int]) -> None:
        self.mixture = {REST: Source(), **mixture}
        self.source_of = {
            (source.recipe, score): name
            for name, source in mixture.items()
            # Of rewritten documents the score may be unknown.
            for score in (*source.scores, *[None] * (len(source.scores) == SCORES))
        }
        weighted: dict[str, float] = dict.fromkeys(self.mixture, 0.0)
        for key, count in tokens.items():
            name = self.source_of.get(key, REST)
            weighted[name] += count * self.mixture[name].weight
        present = {name: source for name, source in self.mixture.items() if weighted[name]}
        points = {0.0, 1.0, *(point for source in present.values() for point in (source.start, source.until))}
        self.edges = np.array(sorted(points))
        self.tokens = sum(weighted.values())  # with repetitions
        self.shares = self._shares(present, weighted)

    def _shares(self, present: Mapping[str, Source], weighted: Mapping[str, float]) -> dict[str, Floats]:
        """Return, for each source, the share of it that is read in each interval between two edges.

        Iterative proportional fitting: the sums over intervals are the sources' tokens, the sums over sources
        are the intervals' lengths.
        """
        lengths = np.diff(self.edges)
        total = sum(weighted[name] for name in present)
        if not total:
            return {}
        is_read = np.array(
            [
                [source.start <= edge < source.until for edge in self.edges[:-1]]
                for source in present.values()
            ],
            np.float64,
        )
        amounts = np.array([weighted[name] / total for name in present])
        fitted = is_read * amounts[:, None] * lengths
        for _ in range(_MAX_ITERATIONS):
            with np.errstate(divide="ignore", invalid="ignore"):
                fitted = np.nan_to_num(fitted * (lengths / fitted.sum(0)))
                factors = amounts / fitted.sum(1)
                fitted = np.nan_to_num(fitted * factors[:, None])
            if np.abs(fitted.sum(0) - lengths).max() < _CONVERGED:
                break
        deviation = np.abs(fitted.sum(0) / lengths - 1)
        worst = int(deviation.argmax())
        if deviation[worst] > _TOLERANCE:
            start, end = self.edges[worst], self.edges[worst + 1]
            share, length = fitted.sum(0)[worst], end - start
            raise UserError(
                f"the mixture cannot fill training evenly: from {start:g} to {end:g} of it there is too "
                f"{'little' if share < length else 'much'} to read (a share of {share:.3f} of all tokens for "
                f"{length:.3f} of training); change start, until or weight of a source there."
            )
        return {name: row / row.sum() for name, row in zip(present, fitted, strict=True)}

    def place(self, documents: pa.Table) -> pa.Table:
        """Return `documents` with their places, in units of 2^-64, in the column `order`.

        A document occurs as often as the weight of its source requires. `documents` has the columns recipe,
        score (null: unknown) and order, the documents' hashes.
        """
        if len(self.mixture) == 1:
            return documents
        sources = self._sources_of(documents)
        hashes = documents.column("order").to_numpy()
        indices: list[npt.NDArray[np.int64]] = []
        places: list[Hashes] = []
        for number, (name, source) in enumerate(self.mixture.items()):
            selected = np.flatnonzero(sources == number)
            for copy in itertools.count():
                remaining = source.weight - copy
                if remaining <= 0 or not len(selected):
                    break
                if remaining < 1:  # sample the same share of the documents in every run
                    limit = np.uint64(int(remaining * (2**64 - 1)))
                    selected = selected[_rehash(hashes[selected], 2 * copy + 1) < limit]
                copy_hashes = hashes[selected] if copy == 0 else _rehash(hashes[selected], 2 * copy)
                indices.append(selected)
                places.append(self._places(name, copy_hashes))
        taken = np.concatenate(indices) if indices else np.empty(0, np.int64)
        order = np.concatenate(places) if places else np.empty(0, np.uint64)
        placed = documents.take(pa.array(taken))
        return placed.set_column(placed.column_names.index("order"), "order", pa.array(order, pa.uint64()))

    def _sources_of(self, documents: pa.Table) -> npt.NDArray[np.int64]:
        """Return the number of each document's source in `mixture`."""
        numbers = {name: number for number, name in enumerate(self.mixture)}
        recipes = sorted({recipe for recipe, _ in self.source_of})
        table = np.full((len(recipes) + 1, SCORES + 1), numbers[REST])  # the last of each: another or unknown
        for (recipe, score), name in self.source_of.items():
            table[recipes.index(recipe), SCORES if score is None else score] = numbers[name]
        recipe = pc.fill_null(pc.index_in(documents.column("recipe"), pa.array(recipes)), len(recipes))
        score = pc.fill_null(pc.index_in(documents.column("score"), _ALL_SCORES), SCORES)
        numbers_of: npt.NDArray[np.int64] = table[recipe.to_numpy(), score.to_numpy()]
        return numbers_of

    def _places(self, name: str, hashes: Hashes) -> Hashes:
        """Map `hashes`, uniform over [0, 2^64), to places distributed as the shares of source `name`."""
        if not len(hashes):
            return hashes
        ends = np.concatenate([[0.0], np.cumsum(self.shares[name])])
        ends[-1] = 1.0
        uniform = hashes.astype(np.float64) / 2.0**64
        # side="right" selects the last of equal ends, which skips intervals without a share.
        interval = np.searchsorted(ends, uniform, side="right") - 1
        width = self.edges[interval + 1] - self.edges[interval]
        fraction = (uniform - ends[interval]) / (ends[interval + 1] - ends[interval])
        place = self.edges[interval] + fraction * width
        places: Hashes = np.minimum(place * 2.0**64, 2.0**64 - 2.0**11).astype(np.uint64)
        return places


def _rehash(hashes: Hashes, number: int) -> Hashes:
    """Return other hashes of the same documents, independent for each `number` (splitmix64)."""
    with np.errstate(over="ignore"):
        z = hashes + np.uint64(0x9E3779B97F4A7C15) * np.uint64(number + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Hashes = z ^ (z >> np.uint64(31))
    return mixed
