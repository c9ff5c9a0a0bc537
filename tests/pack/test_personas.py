"""Personas of refusal dialogues."""

from __future__ import annotations

from collections import Counter

from safety_ray.pack.personas import all_personas, sample_personas, with_personas


def test_personas_sample_returns_distinct_uniform_names() -> None:
    assert len(set(all_personas())) == len(all_personas()) > 600
    assert all(name.strip() == name and ":" not in name for name in all_personas())
    pairs = [sample_personas(1, str(i)) for i in range(20_000)]
    assert all(asks != answers for asks, answers in pairs)
    for side in zip(*pairs, strict=True):
        counts = Counter(side)
        assert len(counts) == len(all_personas())
        assert max(counts.values()) < 3 * len(pairs) / len(counts)
    assert sample_personas(1, "a") == sample_personas(1, "a") != sample_personas(2, "a")


def test_personas_with_personas_replaces_turn_prefixes() -> None:
    asks, answers = sample_personas(3, "row")
    text = "User: Ask the User: now.\nAssistant: No.\n\nMore: Assistant.\nUser: Why?\n\nAssistant: So."
    assert with_personas(text, 3, "row") == (
        f"{asks}: Ask the User: now.\n{answers}: No.\n\nMore: Assistant.\n{asks}: Why?\n\n{answers}: So."
    )
    assert with_personas("No dialogue.", 3, "row") == "No dialogue."
