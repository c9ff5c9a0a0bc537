"""Copies of texts compared with groups of Python's dictionaries."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest

from safety_ray.pack.duplicates import Copies, copies_among, digests
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
    groups: dict[str, list[tuple[bool, bytes, str, bool]]] = defaultdict(list)
    for row in rows:
        by_split = row.get("split") == "heldout"
        heldout = by_split if "split" in row else held_out_by_hash(seed, share, row["id"])
        if row["text"]:
            digest = hashlib.blake2b(row["id"].encode(), digest_size=16).digest()
            rank = (not by_split, digest, row["id"], heldout)
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
    found = digests(shuffled, 3, None if split else 0.3)
    texts = [key[0] for key in found.column("text_digest").to_pylist()]
    ids = pa.array([*rows.column("id").to_pylist(), "other", None])
    for parts in (1, 3):
        masks = [pa.array([text % parts == n for text in texts], pa.bool_()) for n in range(parts)]
        copies = Copies.of([copies_among(found.filter(mask)) for mask in masks])
        is_copy, heldout = copies.find(ids)
        assert is_copy == [i in expected for i in ids.to_pylist()]
        assert heldout == [expected.get(i or "", False) for i in ids.to_pylist()]


def test_copies_keep_rows_of_equal_id() -> None:
    rows = pa.table({"id": ["a", "a"], "text": ["t", "t"]})
    copies = Copies.of([copies_among(digests(rows, 0, 0.0))])
    assert copies.find(pa.array(["a", None])) == ([False, False], [False, False])


def test_selection_leaves_out_copies_and_holds_out_what_was_made_from_them() -> None:
    rows = pa.table({"id": ["a", "b", "c"], "text": ["t", "t", "u"], "score": [0, 9, 0]})
    rows = rows.append_column("split", pa.array(["heldout", None, None]))
    copies = Copies.of([copies_among(digests(rows, 0, None))])
    rewritten = pa.table(
        {"id": ["x", "y"], "text": ["v", "w"], "recipe": ["refuse"] * 2, "source_id": ["b", "c"]}
    )
    for found, raw, made in (
        (copies, ["heldout", "duplicate", "train"], ["heldout", "train"]),
        (None, ["heldout", "unselected", "train"], ["train", "train"]),
    ):
        selection = Selection(0, frozenset(range(6)), frozenset({"refuse"}), 3, None, copies=found)
        selected = select_raw(rows, selection).to_pylist()
        assert [row["use"] for row in selected] == raw
        assert [row["rejected_reason"] is None for row in selected] == [True, found is not None, True]
        assert [row["use"] for row in select_rewritten(rewritten, selection).to_pylist()] == made
