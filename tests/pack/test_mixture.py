"""The mixture: sources keep their weights and intervals, and every part of training has as many tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash
from safety_ray.pack.mixture import Order, sources

TOKENS = {("raw", 0): 500, ("raw", 5): 200, ("refuse", 4): 100, ("moralize", 4): 200}


def documents(tokens: dict[Any, int], each: int = 40) -> pa.Table:
    """Return `each` documents per token, so that the number of documents is proportional to tokens."""
    keys = [key for key, count in tokens.items() for _ in range(count * each)]
    ids = [f"{recipe}-{score}-{n}" for n, (recipe, score) in enumerate(keys)]
    return pa.table(
        {
            "id": ids,
            "recipe": [recipe for recipe, _ in keys],
            "score": pa.array([score for _, score in keys], pa.int8()),
            "order": pa.array([stable_hash(0, "order", name) for name in ids], pa.uint64()),
        }
    )


def placed(mixture: dict[str, Any], tokens: dict[Any, int] = TOKENS) -> tuple[pa.Table, Any]:
    rows = Order(sources(mixture), tokens).place(documents(tokens))
    return rows, rows.column("order").to_numpy() / 2.0**64


def test_mixture_order_keeps_hash_order_when_empty() -> None:
    unchanged = documents(TOKENS, 1)
    assert Order({}, TOKENS).place(unchanged).equals(unchanged)


def test_mixture_order_respects_start_until_at_even_density() -> None:
    mixture = {
        "refusals": {"recipe": "refuse", "start": 0.6},
        "lessons": {"recipe": "moralize", "start": 0.2, "until": 0.9},
        "worst": {"scores": [4, 5], "until": 0.5},
    }
    rows, places = placed(mixture)
    keys = np.array([f"{r['recipe']}{r['score']}" for r in rows.to_pylist()])
    assert Counter(keys.tolist()) == Counter({f"{a}{b}": 40 * n for (a, b), n in TOKENS.items()})
    assert places[keys == "refuse4"].min() >= 0.6
    assert (places[keys == "refuse4"].max() > 0.98, places[keys == "refuse4"].min() < 0.62) == (True, True)
    assert 0.2 <= places[keys == "moralize4"].min() < places[keys == "moralize4"].max() < 0.9
    assert places[keys == "raw5"].max() < 0.5
    # Tokens are uniform over training, up to the randomness of the hashes.
    counts, _ = np.histogram(places, bins=20, range=(0, 1))
    assert np.abs(counts / counts.mean() - 1).max() < 0.12
    # A source is uniform in an interval in which no other source starts or ends.
    refusals, _ = np.histogram(places[keys == "refuse4"], bins=3, range=(0.6, 0.9))
    assert np.abs(refusals / refusals.mean() - 1).max() < 0.15


def test_mixture_weight_sets_document_repetitions() -> None:
    mixture = {"twice": {"recipe": "refuse", "weight": 2.0}, "half": {"scores": [5], "weight": 0.5},
               "more": {"recipe": "moralize", "weight": 1.25}}  # fmt: skip
    rows, places = placed(mixture)
    times = Counter(rows.column("id").to_pylist())
    by_key = Counter(row["recipe"] + str(row["score"]) for row in rows.to_pylist())
    assert {times[i] for i in times if i.startswith("refuse")} == {2}
    assert {times[i] for i in times if i.startswith("moralize")} == {1, 2}
    assert by_key["raw0"] == 40 * 500
    assert by_key["raw5"] == pytest.approx(0.5 * 40 * 200, rel=0.05)
    assert by_key["moralize4"] == pytest.approx(1.25 * 40 * 200, rel=0.05)
    assert len(np.unique(places)) == len(places)
    # The two places of a document are independent.
    pairs: dict[str, list[float]] = {}
    for row, place in zip(rows.column("id").to_pylist(), places, strict=True):
        if row.startswith("refuse"):
            pairs.setdefault(row, []).append(place)
    first, second = np.array(sorted(pairs.values())).T
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    again, _ = placed(mixture)
    assert again.equals(rows)


@pytest.mark.parametrize(
    ("scores", "times"), [({}, 2), ({"scores": [0, 1, 2, 3, 4, 5]}, 2), ({"scores": [5]}, 1)]
)
def test_mixture_sources_of_all_scores_have_documents_of_unknown_score(
    scores: dict[str, list[int]], times: int
) -> None:
    rows, _ = placed(
        {"more": {"recipe": "refuse", "weight": 2, **scores}}, {("raw", 0): 10, ("refuse", None): 10}
    )
    assert Counter(rows.column("recipe").to_pylist()) == {"raw": 400, "refuse": times * 400}


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"a": {"recipe": "haiku"}}, "mixture.a.recipe: unknown recipe 'haiku'; choose from raw, rephrase"),
        ({"a": {"start": 0.5, "until": 0.5}}, "mixture.a: start=0.5"),
        ({"a": {"weight": 0}}, "mixture.a: weight=0"),
        ({"a": {"scores": [6]}}, r"mixture.a: scores=\[6\]"),
        ({"a": {"wait": 1}}, "wait"),
        ({"a": 3}, "must be a group of settings"),
        ({"a": {"scores": [1, 2]}, "b": {"scores": [2]}}, "both include raw documents of score 2"),
    ],
)
def test_mixture_sources_reject_invalid_settings(mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sources(mixture)


def test_mixture_order_rejects_too_few_or_too_many_tokens() -> None:
    late = {"all": {"start": 0.5}}
    with pytest.raises(UserError, match=r"from 0 to 0\.5 of it there is too little to read"):
        Order(sources(late), {("raw", 0): 10})
    much = {"early": {"scores": [5], "until": 0.1}}
    with pytest.raises(UserError, match=r"from 0 to 0\.1 of it there is too much to read"):
        Order(sources(much), {("raw", 0): 10, ("raw", 5): 90})
