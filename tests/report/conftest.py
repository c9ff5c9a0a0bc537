"""The card of the small data, built without Ray."""

from __future__ import annotations

from typing import Any

import pytest
from small_data import REWRITTEN_ROWS, SCORED_ROWS, table

from safety_ray.core.records import REWRITTEN, SCORED
from safety_ray.report.card import build_card
from safety_ray.report.sources import count_originals_of, hash_sources, merge_sources
from safety_ray.report.tally import Cell, Sums, count_rewritten, merge_cells

TITLE = 'A <b>card</b> & $x_1$ | "quoted": it\'s `so`'


@pytest.fixture
def cells() -> dict[Cell, Sums]:
    rewritten = table(REWRITTEN_ROWS, REWRITTEN)
    sources = merge_sources([hash_sources(rewritten)])
    return merge_cells([count_originals_of(table(SCORED_ROWS, SCORED), sources), count_rewritten(rewritten)])


@pytest.fixture
def card(cells: dict[Cell, Sums]) -> dict[str, Any]:
    return {**build_card(cells, TITLE, rewritten=True), "inputs": {"scored": "0011", "rewritten": "2233"}}


@pytest.fixture
def card_before(cells: dict[Cell, Sums]) -> dict[str, Any]:
    originals = {cell: sums for cell, sums in cells.items() if cell.recipe == "original"}
    return {**build_card(originals, TITLE, rewritten=False), "inputs": {"scored": "0011"}}
