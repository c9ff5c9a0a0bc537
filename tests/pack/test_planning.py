"""The plan of the shards compared with Python integers and loops over documents."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash
from safety_ray.pack import planning
from safety_ray.pack.mixture import Order, sources
from safety_ray.pack.planning import Schedule


@given(places=st.lists(st.integers(0, 2**64 - 1), max_size=20), shards=st.integers(1, 2**20))
def test_shard_of_equals_exact_product(places: list[int], shards: int) -> None:
    found = planning.shard_of(np.array(places, np.uint64), shards)
    assert found.tolist() == [place * shards >> 64 for place in places]


def encoded(documents: int) -> pa.Table:
    """Return encoded documents of all uses, without their ids and tokens."""
    rng = random.Random(0)
    rows = []
    for number in range(documents):
        use = rng.choice(["train", "train", "heldout", "unselected"])
        tokens = rng.randint(5, 90) * (use == "train")
        rows.append(
            {
                "use": use,
                "recipe": rng.choice(["raw", "rephrase", "refuse"]),
                "score": rng.choice([0, 3, 5, None]),
                "order": stable_hash(0, "order", number),
                "tokens": tokens,
                "tags": tokens // 5,
            }
        )
    types = {"score": pa.int8(), "order": pa.uint64()}
    return pa.table({name: pa.array([r[name] for r in rows], types.get(name)) for name in rows[0]})


def test_planning_sums_equal_loops_over_documents() -> None:
    table = encoded(600)
    batches = [table.slice(start, 70) for start in range(0, 600, 70)]
    totals = planning.add_tokens(planning.token_sums(b.select(planning.TOKEN_COLUMNS)) for b in batches)
    by_hand: Counter[tuple[str, int | None]] = Counter()
    for row in table.to_pylist():
        by_hand[row["recipe"], row["score"]] += row["tokens"]
    assert totals == +by_hand

    order = Order(
        sources({"late": {"recipe": "refuse", "start": 0.5, "weight": 2.0, "scores": [0, 1, 2, 3, 4]}}),
        totals,
    )
    assert order.tokens == sum(
        n * (2 if recipe == "refuse" and score in range(5) else 1) for (recipe, score), n in totals.items()
    )
    schedule = Schedule(order, 5, tag_id=3, tags_start=0.3, tags_until=0.8)
    counts = planning.add_counts(planning.count_sums(batch, schedule) for batch in batches)
    tokens: Counter[int] = Counter()
    recipes: Counter[str] = Counter()
    tags = 0
    for row in order.place(table).to_pylist():
        tagged = 0.3 <= row["order"] / 2**64 < 0.8
        size = row["tokens"] - (0 if tagged else row["tags"])
        tokens[row["order"] * 5 >> 64] += size
        recipes[row["recipe"]] += size
        tags += row["tags"] * tagged
    assert (counts.tokens, counts.recipes, counts.tags) == (+tokens, +recipes, tags)
    assert counts.uses == Counter(table.column("use").to_pylist())


def test_planning_sums_accept_batches_without_trained_documents() -> None:
    table = encoded(40)
    unread = table.filter(pa.compute.equal(table.column("tokens"), 0))
    counts = planning.add_counts([planning.count_sums(unread, Schedule(Order({}, {}), 4, tag_id=3))])
    assert counts.uses.total() == len(unread)
    assert not counts.tokens


def test_number_of_shards_follows_tokens_unless_set() -> None:
    assert [planning.number_of_shards(0, n) for n in (0, 1, 200_000_000, 200_000_001, 2.1e9)] == [
        1,
        1,
        1,
        2,
        11,
    ]
    assert planning.number_of_shards(7, 2.1e9) == 7


def test_check_number_rejects_too_few_shards_before_encoding() -> None:
    planning.check_number(4, 30 * 10**9)  # about 1.9 billion tokens each
    planning.check_number(0, 10**15)
    with pytest.raises(UserError, match=r"shards=4: 40,000,000,000 bytes .* 10,000,000,000 tokens.*shards=0"):
        planning.check_number(4, 40 * 10**9)
