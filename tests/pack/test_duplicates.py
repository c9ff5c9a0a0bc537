"""Copies of texts compared with groups of Python's dictionaries."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest

from safety_ray.core.records import stable_hash
from safety_ray.pack.duplicates import collect, copies_among, digests
from safety_ray.pack.heldout import held_out_by_hash
from safety_ray.pack.selection import Selection, select_raw, select_rewritten


def documents(count: int, split: bool) -> pa.Table:
    rng = random.Random(count)
    rows = [
        {"id": f"d{n}", "text": rng.choice([None, "", *"abcdefghijkl"]), "score": n % 6} for n in range(count)
    ]
    if split:
        rows = [row | {"split": rng.choice(["train", "heldout", None])} for row in rows]
    return pa.Table.from_pylist(rows)


def reference(rows: list[dict[str, Any]], seed: int, share: float) -> dict[str, bool]:
    """Return the ids of copies, and whether their canonical row is held out."""
    groups: dict[str, list[tuple[bool, int, str, bool]]] = defaultdict(list)
    for row in rows:
        by_split = row.get("split") == "heldout"
        heldout = by_split if "split" in row else held_out_by_hash(seed, share, row["id"])
        if row["text"]:
            rank = (not by_split, stable_hash("canonical", row["id"]), row["id"], heldout)
            groups[row["text"]].append(rank)
    ordered = [sorted(group) for group in groups.values()]
    return {id: group[0][3] for group in ordered for _, _, id, _ in group[1:]}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5, 20, 100])
def test_copies_match_reference_in_any_order(count: int, split: bool) -> None:
    rows = documents(count, split) if count else documents(1, split).slice(0, 0)
    expected = reference(rows.to_pylist(), 3, 0.3)
    order = random.Random(1).sample(range(count), count)
    shuffled = rows.take(pa.array(order, pa.int64()))
    tables = [digests(shuffled.slice(start, 7), 3, 0.3) for start in range(0, count, 7)]
    by_text = digests(rows, 3, 0.3)
    groups = [ord(key[0]) % 3 for key in by_text.column("key").to_pylist()]
    parts = [by_text.filter(pa.array([group == n for group in groups], pa.bool_())) for n in range(3)]
    ids: list[str | None] = [*rows.column("id").to_pylist(), "other", None]
    for copies in (
        collect(tables, complete=False),
        collect([copies_among(part) for part in parts], complete=True),
    ):
        found, heldout = copies.find(ids)
        assert found == [i in expected for i in ids]
        assert heldout == [expected.get(i or "", False) for i in ids]


def test_copies_keep_rows_of_equal_id() -> None:
    rows = pa.table({"id": ["a", "a"], "text": ["t", "t"]})
    assert collect([digests(rows, 0, 0.0)], complete=False).find(["a"]) == ([False], [False])


def test_selection_leaves_out_copies_and_holds_out_what_was_made_from_them() -> None:
    rows = pa.table({"id": ["a", "b", "c"], "text": ["t", "t", "u"], "score": [0, 9, 0]})
    rows = rows.append_column("split", pa.array(["heldout", None, None]))
    copies = collect([digests(rows, 0, 0.0)], complete=False)
    rewritten = pa.table(
        {"id": ["x", "y"], "text": ["v", "w"], "recipe": ["refuse"] * 2, "source_id": ["b", "c"]}
    )
    for found, raw, made in (
        (copies, ["heldout", "duplicate", "train"], ["heldout", "train"]),
        (None, ["heldout", "unselected", "train"], ["train", "train"]),
    ):
        selection = Selection(0, frozenset(range(6)), frozenset({"refuse"}), 3, 0.0, copies=found)
        selected = select_raw(rows, selection).to_pylist()
        assert [row["use"] for row in selected] == raw
        assert [row["rejected_reason"] is None for row in selected] == [True, found is not None, True]
        assert [row["use"] for row in select_rewritten(rewritten, selection).to_pylist()] == made
