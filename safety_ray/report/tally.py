"""Count words and n-grams of documents, as sums that can be added over batches.

Documents are grouped into cells (recipe, score of the source, own score, rewritten or not). A cell has one
vector of integers, from which every rate and its interval follow exactly (`interval.estimate_rate`), so the
corpus is never in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from safety_ray.core.errors import UserError
from safety_ray.core.records import RECIPES, SCORES
from safety_ray.report.ngrams import find_ngrams, load_lists

ORIGINAL = "original"
Vector = npt.NDArray[np.int64]
_SCHEMA = pa.schema(
    [
        *(("recipe", pa.string()), ("source_score", pa.int8()), ("score", pa.int8())),
        ("rewritten", pa.bool_()),
        ("sums", pa.list_(pa.int64())),
    ]
)


class Cell(NamedTuple):
    """The key of a group of documents."""

    recipe: str
    """`ORIGINAL`, or the recipe of a rewritten text"""
    source_score: int
    score: int
    rewritten: bool = False
    """whether texts were made from these originals"""


class Sums:
    """A view of a cell's vector: sums over its documents d, with w(d) words and c(d) occurrences.

    `counts`, `squares`, `products` and `holders` have a column for each category and one for all n-grams
    together, in which an n-gram of two lists counts once.
    """

    def __init__(self, vector: Vector | None = None) -> None:
        columns = len(load_lists().categories) + 1
        edges = np.cumsum([0, 3, columns, columns, columns, columns, len(load_lists().ngrams)])
        self.vector = np.zeros(edges[-1], np.int64) if vector is None else vector
        views = [self.vector[start:end] for start, end in pairwise(edges)]
        self.head, self.counts, self.squares, self.products, self.holders, self.ngrams = views

    @property
    def documents(self) -> int:
        return int(self.head[0])

    @property
    def words(self) -> int:
        """Σ w"""
        return int(self.head[1])

    @property
    def words_squared(self) -> int:
        """Σ w²"""
        return int(self.head[2])

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.vector + other.vector)

    def add_document(self, text: str) -> None:
        """Add the counts of one document."""
        words = len(text.split())
        self.head += (1, words, words * words)
        occurrences = find_ngrams(text)
        if not occurrences:
            return
        lists = load_lists()
        counts = np.zeros_like(self.counts)
        for index, times in occurrences.items():
            self.ngrams[index] += times
            counts[-1] += times
            for category in lists.members[index]:
                counts[category] += times
        self.counts += counts
        self.squares += counts * counts
        self.products += counts * words
        self.holders += counts > 0


def count_originals(batch: pa.Table, rewritten: list[bool] | None = None) -> pa.Table:
    """Count a batch of scored documents (id, text, score): one row for each cell with its sums.

    `rewritten` says of each document whether texts were made from it; by default of none. Raises UserError
    for an invalid row.
    """
    return _count(batch, [ORIGINAL] * len(batch), "score", rewritten)


def count_rewritten(batch: pa.Table) -> pa.Table:
    """Count a batch of rewritten texts (id, text, recipe, source_score, score) like `count_originals`."""
    return _count(batch, _recipes(batch), "source_score")


def merge_cells(tables: Iterable[pa.Table]) -> dict[Cell, Sums]:
    """Add up the cells of many batches."""
    total: dict[Cell, Sums] = {}
    for table in tables:
        for row in table.to_pylist():
            cell = Cell(row["recipe"], row["source_score"], row["score"], row["rewritten"])
            total[cell] = total.get(cell, Sums()) + Sums(np.array(row["sums"], np.int64))
    return total


def to_table(cells: dict[Cell, Sums]) -> pa.Table:
    """Return one row for each cell, which `merge_cells` reads."""
    rows: list[dict[str, Any]] = [{**cell._asdict(), "sums": sums.vector} for cell, sums in cells.items()]
    return pa.Table.from_pylist(rows, _SCHEMA)


def _count(batch: pa.Table, recipes: list[str], source: str, rewritten: list[bool] | None = None) -> pa.Table:
    cells: dict[Cell, Sums] = {}
    flags = rewritten or [False] * len(batch)
    keys = zip(recipes, _scores(batch, source), _scores(batch, "score"), flags, strict=True)
    for row, (text, key) in enumerate(zip(batch.column("text").to_pylist(), keys, strict=True)):
        if not isinstance(text, str):
            raise UserError(f"{_row(batch, row)} has no text; the column 'text' must contain strings.")
        cell = Cell(*key)
        if cell not in cells:
            cells[cell] = Sums()
        cells[cell].add_document(text)
    return to_table(cells)


def _recipes(batch: pa.Table) -> list[str]:
    values: list[str] = batch.column("recipe").to_pylist()
    for row, value in enumerate(values):
        if value not in RECIPES:
            raise UserError(
                f"{_row(batch, row)} has recipe {value!r}; it must be one of {', '.join(RECIPES)}."
            )
    return values


def _scores(batch: pa.Table, column: str) -> list[int]:
    values: list[int] = batch.column(column).to_pylist()
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < SCORES:
            raise UserError(
                f"{_row(batch, row)} has {column} {value!r}; it must be an integer from 0 to {SCORES - 1}."
            )
    return values


def _row(batch: pa.Table, row: int) -> str:
    return f"the row with id {batch.column('id')[row].as_py()!r}"
