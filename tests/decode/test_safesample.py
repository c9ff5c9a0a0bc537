"""Sampling with a look-ahead, compared with transformers' samplers and with an exact distribution."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from test_safebeam import EOS, TAG, Table
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from safety_ray.core.errors import UserError
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings

SAMPLES = 4000


def run(table: Table, search: Search) -> Search:
    while search.pending:
        search.advance(table.expand([beam.token_ids for beam in search.pending]))
    return search


def first_tokens(table: Table, **settings: float) -> dict[int, float]:
    options = {"tag_id": TAG, "max_new_tokens": 1, **settings}
    counts = Counter(
        run(table, SampleSearch(SampleSettings(**options, seed=seed))).hypotheses()[0].token_ids[0]  # type: ignore[arg-type]
        for seed in range(SAMPLES)
    )
    return {token: count / SAMPLES for token, count in counts.items()}


def assert_close(found: dict[int, float], expected: dict[int, float]) -> None:
    """Assert that frequencies are within four standard errors of `expected`, and 0 where it is 0."""
    for token in found.keys() | expected.keys():
        p = expected.get(token, 0.0)
        assert abs(found.get(token, 0.0) - p) <= 4 * math.sqrt(p * (1 - p) / SAMPLES)


@pytest.mark.parametrize(("temperature", "top_p", "n"), [(1.0, 1.0, 8), (0.7, 0.8, 5), (1.6, 0.9, 6)])
def test_sample_search_matches_transformers_at_zero_drop(temperature: float, top_p: float, n: int) -> None:
    table = Table(4, 12)
    scores = torch.tensor([table.row(())])
    scores[0, TAG] = -math.inf
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(n), TopPLogitsWarper(top_p)):
        scores = warper(torch.zeros(1, 1, dtype=torch.long), scores)
    expected = {token: p for token, p in enumerate(scores.softmax(-1)[0].tolist()) if p > 0}
    assert_close(
        first_tokens(table, drop_share=0.0, temperature=temperature, top_p=top_p, num_candidates=n), expected
    )


def test_sample_search_samples_safer_half_by_probability() -> None:
    table, n = Table(9, 12), 6
    row = table.row(())
    best = sorted((t for t in range(12) if t != TAG), key=lambda t: -row[t])[:n]
    safer = sorted(best, key=lambda t: table.row((t,))[TAG])[: n // 2]
    total = sum(math.exp(row[t]) for t in safer)
    assert_close(first_tokens(table, num_candidates=n), {t: math.exp(row[t]) / total for t in safer})


def test_sample_search_matches_one_beam_at_zero_temperature() -> None:
    for seed in range(50):
        table = Table(seed, 9)
        options = {"tag_id": TAG, "eos_ids": {EOS}, "num_candidates": 4, "max_new_tokens": 8}
        sampled = run(table, SampleSearch(SampleSettings(**options, temperature=0.0)))  # type: ignore[arg-type]
        searched = run(table, Search(SearchSettings(**options, beam_size=1)))  # type: ignore[arg-type]
        assert sampled.hypotheses() == searched.hypotheses()


def test_sample_search_expands_candidates_only_at_stride() -> None:
    table = Table(1, 12)
    search = SampleSearch(SampleSettings(tag_id=TAG, num_candidates=5, max_new_tokens=4, stride=2))
    rows = []
    while search.pending:
        rows.append(len(search.pending))
        search.advance(table.expand([beam.token_ids for beam in search.pending]))
    assert rows == [1, 1, 5, 1, 5]


def test_sample_search_is_deterministic_per_seed() -> None:
    table = Table(1, 30)

    def answer(seed: int) -> tuple[int, ...]:
        settings = SampleSettings(tag_id=TAG, num_candidates=9, max_new_tokens=12, seed=seed)
        return run(table, SampleSearch(settings)).hypotheses()[0].token_ids

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(20)}) > 10
    assert all(TAG not in answer(seed) for seed in range(20))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beam_size": 2}, "beam_size=2 must be 1"),
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"stride": 0}, "stride=0 must be at least 1"),
    ],
)
def test_sample_settings_rejects_invalid_values(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SampleSettings(tag_id=TAG, **wrong)  # type: ignore[arg-type]
