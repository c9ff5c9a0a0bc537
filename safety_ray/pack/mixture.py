"""What is read when: sources with weights, each in its own stretch of the training.

A document's place is a number in [0, 1), the share of training tokens before it. Without a mixture it
is its hash. With one, a source begins at `start` and ends at `until`; so that every moment still has the
same number of tokens, sources that are read all along give way while others are there: `Order` finds how
much of each source is read in each interval between two such points.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from safety_ray.core.config import from_dict, setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import RAW, RECIPES, SCORES

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

REST = ""
"""The documents that no source names: read once, all along."""
_ROUNDS, _CLOSE, _FAR = 5_000, 1e-9, 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A source of the mixture: documents of one recipe and some scores."""

    recipe: str = setting(f"{RAW}, or a recipe: {', '.join(RECIPES)}", default=RAW)
    scores: list[int] = setting("of the web documents at their roots", factory=lambda: list(range(SCORES)))
    weight: float = setting("times each of them is read; below 1, a share of them is", default=1.0)
    start: float = setting("share of the training after which they come", default=0.0)
    until: float = setting("share of the training after which none comes", default=1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.until <= 1:
            raise UserError(f"start={self.start} and until={self.until}: 0 <= start < until <= 1 must hold.")
        if not 0 < self.weight <= 100:
            raise UserError(f"weight={self.weight} must lie above 0 and be at most 100.")
        if not self.scores or any(score not in range(SCORES) for score in self.scores):
            raise UserError(f"scores={self.scores} must name some of 0 to {SCORES - 1}.")


def sources(values: Mapping[str, Any]) -> dict[str, Source]:
    """The mixture that a config holds; UserError where two sources name the same documents."""
    found: dict[str, Source] = {}
    taken: dict[tuple[str, int], str] = {}
    for name, given in values.items():
        if not isinstance(given, Mapping):
            raise UserError(f"mixture.{name}={given!r} must be a group of settings, as {{recipe: raw}}.")
        try:
            one = from_dict(Source, dict(given), f"mixture.{name}")
        except UserError as error:
            raise UserError(f"mixture.{name}: {error}") from None
        if one.recipe not in (RAW, *RECIPES):
            known = ", ".join((RAW, *RECIPES))
            raise UserError(f"mixture.{name}.recipe={one.recipe} is none of {known}.")
        for score in one.scores:
            other = taken.setdefault((one.recipe, score), name)
            if other != name:
                raise UserError(
                    f"mixture.{name} and mixture.{other} both name {one.recipe} documents of score {score}."
                )
        found[name] = one
    return found


class Order:
    """Places of documents in the training, out of their hashes."""

    def __init__(self, mixture: Mapping[str, Source], tokens: Mapping[tuple[str, int | None], int]) -> None:
        """`tokens` is how many there are of each recipe and score. UserError where the mixture cannot
        fill the training evenly."""
        self.mixture = {REST: Source(), **mixture}
        self.of = {(one.recipe, score): name for name, one in mixture.items() for score in one.scores}
        weighed: dict[str, float] = dict.fromkeys(self.mixture, 0.0)
        for key, count in tokens.items():
            name = self.of.get(key, REST)  # type: ignore[arg-type]
            weighed[name] += count * self.mixture[name].weight
        present = {name: one for name, one in self.mixture.items() if weighed[name]}
        points = {0.0, 1.0, *(p for one in present.values() for p in (one.start, one.until))}
        self.edges = np.array(sorted(points))
        self.shares = self._shares(present, weighed)

    def _shares(self, present: Mapping[str, Source], weighed: Mapping[str, float]) -> dict[str, Floats]:
        """For each source, which share of it is read in each interval between two edges.

        Iterative proportional fitting: sources keep their tokens, intervals their length.
        """
        lengths = np.diff(self.edges)
        total = sum(weighed[name] for name in present)
        if not total:
            return {}
        there = np.array(
            [[one.start <= at < one.until for at in self.edges[:-1]] for one in present.values()], np.float64
        )
        amounts = np.array([weighed[name] / total for name in present])
        filled = there * amounts[:, None] * lengths
        for _ in range(_ROUNDS):
            with np.errstate(divide="ignore", invalid="ignore"):
                filled = np.nan_to_num(filled * (lengths / filled.sum(0)))
                rows = amounts / filled.sum(1)
                filled = np.nan_to_num(filled * rows[:, None])
            if np.abs(filled.sum(0) - lengths).max() < _CLOSE:
                break
        off = np.abs(filled.sum(0) / lengths - 1)
        worst = int(off.argmax())
        if off[worst] > _FAR:
            at, end = self.edges[worst], self.edges[worst + 1]
            share, length = filled.sum(0)[worst], end - at
            raise UserError(
                f"the mixture cannot fill the training evenly: from {at:g} to {end:g} of it there is too "
                f"{'little' if share < length else 'much'} to read (a share of {share:.3f} of all tokens for "
                f"{length:.3f} of the training); change start, until or weight of a source there."
            )
        return {name: row / row.sum() for name, row in zip(present, filled, strict=True)}

    def place(self, documents: pa.Table) -> pa.Table:
        """Documents with `order` as their place in units of 2^-64, as often as their weight says.

        `documents` has recipe, score (null: unknown) and order, the documents' hashes.
        """
        if len(self.mixture) == 1:
            return documents
        keys = zip(documents.column("recipe").to_pylist(), documents.column("score").to_pylist(), strict=True)
        names = np.array([self.of.get(key, REST) for key in keys])
        hashes = documents.column("order").to_numpy()
        rows: list[npt.NDArray[np.int64]] = []
        places: list[Hashes] = []
        for name, one in self.mixture.items():
            mine = np.flatnonzero(names == name)
            for copy in itertools.count():
                left = one.weight - copy
                if left <= 0 or not len(mine):
                    break
                if left < 1:  # the same share of the documents in every run
                    mine = mine[_mixed(hashes[mine], 2 * copy + 1) < np.uint64(int(left * (2**64 - 1)))]
                own = hashes[mine] if copy == 0 else _mixed(hashes[mine], 2 * copy)
                rows.append(mine)
                places.append(self._placed(name, own))
        taken = np.concatenate(rows) if rows else np.empty(0, np.int64)
        at = np.concatenate(places) if places else np.empty(0, np.uint64)
        found = documents.take(pa.array(taken))
        return found.set_column(found.column_names.index("order"), "order", pa.array(at, pa.uint64()))

    def _placed(self, name: str, hashes: Hashes) -> Hashes:
        """The hashes, even over [0, 2^64), as places that follow the source's shares."""
        if not len(hashes):
            return hashes
        ends = np.concatenate([[0.0], np.cumsum(self.shares[name])])
        ends[-1] = 1.0
        even = hashes.astype(np.float64) / 2.0**64
        # The last of equal ends: intervals without a share are passed over.
        below = np.searchsorted(ends, even, side="right") - 1
        width = self.edges[below + 1] - self.edges[below]
        at = self.edges[below] + (even - ends[below]) / (ends[below + 1] - ends[below]) * width
        found: Hashes = np.minimum(at * 2.0**64, 2.0**64 - 2.0**11).astype(np.uint64)
        return found


def _mixed(hashes: Hashes, number: int) -> Hashes:
    """Other hashes of the same documents, independent for each `number` (splitmix64)."""
    with np.errstate(over="ignore"):
        z = hashes + np.uint64(0x9E3779B97F4A7C15) * np.uint64(number + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found: Hashes = z ^ (z >> np.uint64(31))
    return found
