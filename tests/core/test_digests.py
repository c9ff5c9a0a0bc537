"""Digests of texts and ids, and search in a set of them, compared with Python's own sets."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from safety_ray.core.digests import DigestSet, digest, halves

TEXTS = ["a", "", "ß", "日本", "a", "longer than one word"]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_digest_is_blake2b_for_every_text_type(kind: Any) -> None:
    expected = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in TEXTS]
    values = pa.array(TEXTS).cast(kind)
    assert digest(values).to_pylist() == expected
    assert digest(values.slice(2, 3)).to_pylist() == expected[2:5]
    chunks = pa.chunked_array([values.slice(0, 1), values.slice(1)])
    assert digest(chunks).to_pylist() == expected


def test_digest_of_null_is_that_of_empty_text() -> None:
    assert len(set(digest(pa.array([None, "", None], pa.string())).to_pylist())) == 1
    assert digest(pa.array([], pa.string())).to_pylist() == []


def test_digest_set_finds_exactly_its_members() -> None:
    ids = [f"id {n}" for n in range(2000)]
    members = ids[::3]
    found_set, order = DigestSet.of(halves(digest(pa.array(members))))
    index, found = found_set.find(halves(digest(pa.array(ids))))
    assert [i for i, inside in zip(ids, found, strict=True) if inside] == members
    assert [members[n] for n in order[index[found]]] == members


def test_digest_set_distinguishes_digests_with_equal_halves() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 6, (60, 2)).astype(np.uint64)  # collisions of either half, and of both
    members = np.unique(pairs[:30], axis=0)
    found_set, _ = DigestSet.of(members[rng.permutation(len(members))])
    index, found = found_set.find(pairs)
    inside = {tuple(pair) for pair in members.tolist()}
    assert found.tolist() == [tuple(pair) in inside for pair in pairs.tolist()]
    assert (found_set.high[index[found]] == pairs[found, 0]).all()
    assert (found_set.low[index[found]] == pairs[found, 1]).all()


def test_digest_set_may_be_empty() -> None:
    empty, _ = DigestSet.of(halves(digest(pa.array([], pa.string()))))
    assert empty.find(halves(digest(pa.array(["a"]))))[1].tolist() == [False]
