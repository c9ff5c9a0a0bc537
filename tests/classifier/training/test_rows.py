"""What a classifier is fitted on: splits, ranges of labels, harm amid calm text."""

from __future__ import annotations

from collections import Counter
from typing import Any

from safety_ray.classifier.training.rows import Row, bury, complete, split, windows


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


def test_bury_embeds_whole_harm_in_calm_text_and_keeps_label() -> None:
    calm = [
        {**row, "text": f"A calm sentence about tea, number {row['id']}. " * 4} for row in some("tea", 0, 30)
    ]
    harm = [{**row, "text": f"THREAT {row['id']}"} for row in some("bad", 4, 6)]
    long = [{**row, "text": "x" * 5000} for row in some("long", 5, 3)]
    pairs = bury(complete([*calm, *harm, *long], "x"), 5, 0)
    assert len(pairs) == 5
    for mixture, alone in pairs:
        own = next(row["text"] for row in harm if row["id"] == mixture["id"])
        assert own in mixture["text"]
        assert own not in alone["text"]
        assert 150 < len(mixture["text"]) < 1400
        assert (mixture["label"], alone["label"], mixture["around"]) == (4, 0, ["tea"])
        assert mixture["text"].replace(own, "").split() == alone["text"].split()
    assert pairs == bury(complete([*calm, *harm, *long], "x"), 5, 0)
    assert bury(complete(harm, "x"), 5, 0) == []


def test_windows_contain_whole_sentences_of_source_text() -> None:
    text = " ".join(f"Sentence number {i} is here." for i in range(9))
    pieces = windows(complete([{"id": "a", "text": text, "label": 2}], "x"), 3, 0)
    assert len(pieces) == 3
    assert all(p["text"] in text and p["text"].endswith(".") and p["label"] == 2 for p in pieces)
    assert windows(complete([{"id": "a", "text": "Short. One.", "label": 2}], "x"), 3, 0) == []
