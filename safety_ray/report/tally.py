"""What a report card needs to know about documents, as sums that add up over batches.

Documents fall into cells (recipe, score of the source, own score). A cell keeps one vector of
integers, from which every rate and its interval follow exactly (`interval.rate`); the corpus
itself is never held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORES
from safety_ray.report.ngrams import find_ngrams, load_lists

ORIGINAL = "original"
RECIPES = ("rephrase", "refuse", "moralize")
Vector = npt.NDArray[np.int64]
_SCHEMA = pa.schema(
    [
        *(("recipe", pa.string()), ("source_score", pa.int8()), ("score", pa.int8())),
        *(("sums", pa.list_(pa.int64())), ("mistake", pa.string())),
    ]
)


class Cell(NamedTuple):
    recipe: str
    """`ORIGINAL`, or the recipe a text was rewritten with"""
    source_score: int
    score: int


class Sums:
    """A view of a cell's vector: sums over its documents d, of w(d) words and c(d) occurrences.

    Columns of `counts`, `squares`, `products` and `holders` are the categories, then all n-grams
    together (one that stands in two lists counts once there).
    """

    def __init__(self, vector: Vector | None = None) -> None:
        columns = len(load_lists().categories) + 1
        edges = np.cumsum([0, 3, columns, columns, columns, columns, len(load_lists().ngrams)])
        self.vector = np.zeros(edges[-1], np.int64) if vector is None else vector
        parts = [self.vector[a:b] for a, b in pairwise(edges)]
        self.head, self.counts, self.squares, self.products, self.holders, self.ngrams = parts

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


def count_originals(batch: pa.Table) -> pa.Table:
    """Cells of a batch of scored documents (id, text, score): one row per cell with its sums.

    A row that does not fit comes back as one row with a `mistake`, for `merge` to raise: workers do
    not hand the class of an exception to the driver.
    """
    return _cells(batch, lambda: [ORIGINAL] * len(batch), "score")


def count_rewritten(batch: pa.Table) -> pa.Table:
    """Cells of a batch of rewritten texts (id, text, recipe, source_score, score), or a `mistake`."""
    return _cells(batch, lambda: _recipes(batch), "source_score")


def merge(tables: Iterable[pa.Table]) -> dict[Cell, Sums]:
    """The cells of many batches added up; UserError for a row that does not fit."""
    total: dict[Cell, Sums] = {}
    for table in tables:
        for row in table.to_pylist():
            if row["mistake"] is not None:
                raise UserError(row["mistake"])
            cell = Cell(row["recipe"], row["source_score"], row["score"])
            total[cell] = total.get(cell, Sums()) + Sums(np.array(row["sums"], np.int64))
    return total


def _cells(batch: pa.Table, recipes: Callable[[], list[str]], source: str) -> pa.Table:
    cells: dict[Cell, Sums] = {}
    try:
        keys = zip(recipes(), _scores(batch, source), _scores(batch, "score"), strict=True)
        for row, (text, key) in enumerate(zip(batch.column("text").to_pylist(), keys, strict=True)):
            if not isinstance(text, str):
                raise UserError(f"{_row(batch, row)} has no text (column 'text' must hold strings).")
            cell = Cell(*key)
            if cell not in cells:
                cells[cell] = Sums()
            _add(cells[cell], text)
    except UserError as mistake:
        return pa.Table.from_pylist([{"mistake": str(mistake)}], _SCHEMA)
    rows: list[dict[str, Any]] = [{**cell._asdict(), "sums": sums.vector} for cell, sums in cells.items()]
    return pa.Table.from_pylist(rows, _SCHEMA)


def _add(sums: Sums, text: str) -> None:
    words = len(text.split())
    sums.head += (1, words, words * words)
    found = find_ngrams(text)
    if not found:
        return
    lists = load_lists()
    counts = np.zeros_like(sums.counts)
    for index, times in found.items():
        sums.ngrams[index] += times
        counts[-1] += times
        for category in lists.members[index]:
            counts[category] += times
    sums.counts += counts
    sums.squares += counts * counts
    sums.products += counts * words
    sums.holders += counts > 0


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
