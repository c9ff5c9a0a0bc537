"""What a classifier is fitted on: splits, ranges of labels, harm amid calm text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from safety_ray.classifier.calibration import range_loss
from safety_ray.classifier.metrics import measure
from safety_ray.classifier.training.head import fit_head
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


def test_range_loss_matches_cross_entropy_for_single_label() -> None:
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 1, 2, 3, 5])
    assert torch.allclose(
        range_loss(logits, label, label), torch.nn.functional.cross_entropy(logits, label, reduction="none")
    )
    probs = logits.softmax(-1)
    inside = range_loss(logits, torch.tensor([2] * 5), torch.tensor([4] * 5))
    assert torch.allclose(inside, -probs[:, 2:5].sum(1).log(), atol=1e-6)


def test_fit_head_keeps_unsafe_levels_equal_for_binary_labels() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 6, 600)
    x = torch.tensor(rng.normal(size=(600, 8)) + 3 * np.eye(6, 8)[y]).float()
    low = torch.tensor(np.where(y > 0, 1, 0))
    high = torch.tensor(np.where(y > 0, 5, 0))
    probs = fit_head(x, low, high, unsafe_weight=1.0, l2=1e-3)(x).softmax(-1)
    assert (probs[:, 1:].sum(1) > 0.5).eq(low.bool()).float().mean() > 0.95
    assert torch.allclose(probs[:, 1:].std(1), torch.zeros(600), atol=1e-4)  # nothing told them apart


def test_fit_metrics_count_only_rows_with_decisive_labels() -> None:
    low, high = [0, 0, 1, 2, 4, 4], [0, 2, 5, 5, 5, 4]
    probs = np.eye(6)[[0, 3, 0, 4, 5, 2]]
    found = measure(low, high, [0, 3, 0, 4, 5, 2], probs)
    assert (found["n"], found["exact"]) == (6, 2)
    assert found["recall_at_1"] == 0.75  # four are 1 or more, the third is missed
    assert found["precision_at_1"] == 1.0  # the second may be 1 or 2, and does not count
    assert (found["recall_at_3"], found["false_alarms_at_3"]) == (0.5, 0.5)
    assert found["auroc_at_3"] == 0.5  # unsafe risks 1 and 0, safe ones 0 and 1: two wins of four, by halves
    assert found["auroc_at_2"] == 1.0  # the first row alone is surely below 2
    assert measure([0, 0], [0, 0], [0, 1], np.eye(6)[[0, 1]])["auroc"] is None


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
