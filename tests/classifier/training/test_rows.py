"""Splits, sentence windows and needle-in-haystack texts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from safety_ray.classifier.training.rows import Row, complete, insert_needles, sentence_windows, split
from safety_ray.core.errors import UserError


def some(source: str, label: int, number: int, **more: Any) -> list[Row]:
    return [
        {
            "id": f"{source}/{label}/{i}",
            "text": f"{source} {label} {i}",
            "label": label,
            "source": source,
            **more,
        }
        for i in range(number)
    ]


def test_fit_split_holds_out_share_of_each_source_and_label() -> None:
    rows = complete([*some("a", 0, 100), *some("a", 3, 10), *some("b", 0, 20), *some("b", 5, 50)], "x")
    train, heldout = split(rows, 0, 0.2, 0)
    assert Counter((r["source"], r["label"]) for r in heldout) == {
        ("a", 0): 20,
        ("a", 3): 2,
        ("b", 0): 4,
        ("b", 5): 10,
    }
    assert {r["id"] for r in train} | {r["id"] for r in heldout} == {r["id"] for r in rows}
    assert not {r["id"] for r in train} & {r["id"] for r in heldout}
    again = split(list(reversed(rows)), 0, 0.2, 0)[1]
    assert {r["id"] for r in again} == {r["id"] for r in heldout}
    assert {r["id"] for r in split(rows, 0, 0.2, 1)[1]} != {r["id"] for r in heldout}


def test_fit_split_keeps_families_together_and_fixed_splits() -> None:
    variants = [
        {**row, "id": f"{row['id']}/{n}", "family": row["id"]} for row in some("a", 1, 40) for n in range(3)
    ]
    fixed = [{**row, "split": "heldout"} for row in some("b", 2, 7)]
    train, heldout = split(complete([*variants, *fixed], "x"), 2, 0.25, 0)
    assert not {r["family"] for r in train} & {r["family"] for r in heldout}
    assert Counter(r["source"] for r in heldout) == {"a": 20, "b": 7}
    assert Counter(r["source"] for r in train) == {"a": 60}


def test_fit_split_of_some_rows_decides_for_their_family() -> None:
    rows = [
        {**row, "id": f"{row['id']}/{n}", "family": row["id"], "split": side if n == 1 else None}
        for number, row in enumerate(some("a", 1, 20))
        for side in ["heldout" if number < 5 else "train"]
        for n in range(3)
    ]
    train, heldout = split(complete(rows, "x"), 0, 0.5, 0)
    assert not {r["family"] for r in train} & {r["family"] for r in heldout}
    assert (len(train), len(heldout)) == (45, 15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "row 'x' has no text"),
        ({"label": 2.5}, "row 'x' has label 2.5; a label is an integer from 0 to 5"),
        ({"label": True}, "row 'x' has label True"),
        ({"label_max": 4.0}, "row 'x' has label 1 and label_max 4.0"),
        ({"label_max": 0}, "row 'x' has label 1 and label_max 0"),
    ],
)
def test_complete_rejects_rows_without_text_or_label(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        complete([{"id": "x", "text": "t", "label": 1, **change}], "'d'")


def test_insert_needles_keeps_whole_needle_and_its_label() -> None:
    calm = [
        {**row, "text": f"A calm sentence about tea, number {row['id']}. " * 4} for row in some("tea", 0, 30)
    ]
    harm = [{**row, "text": f"THREAT {row['id']}"} for row in some("bad", 4, 6)]
    long = [{**row, "text": "x" * 5000} for row in some("long", 5, 3)]
    pairs = insert_needles(complete([*calm, *harm, *long], "x"), 5, 0)
    assert len(pairs) == 5
    for mixture, alone in pairs:
        own = next(row["text"] for row in harm if row["id"] == mixture["id"])
        assert own in mixture["text"]
        assert own not in alone["text"]
        assert 150 < len(mixture["text"]) < 1400
        assert (mixture["label"], alone["label"], mixture["around"]) == (4, 0, ["tea"])
        assert mixture["text"].replace(own, "").split() == alone["text"].split()
    assert pairs == insert_needles(complete([*calm, *harm, *long], "x"), 5, 0)
    assert insert_needles(complete(harm, "x"), 5, 0) == []


def test_windows_contain_whole_sentences_of_source_text() -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(9))
    made = sentence_windows(complete([{"id": "a", "text": text, "label": 2}], "x"), 3, 0)
    assert len(made) == 3
    assert all(p["text"] in text and p["text"].endswith(".") and p["label"] == 2 for p in made)
    assert sentence_windows(complete([{"id": "a", "text": "Short. One.", "label": 2}], "x"), 3, 0) == []
