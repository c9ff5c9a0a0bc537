"""The persons who speak in refusals."""

from __future__ import annotations

from collections import Counter

from safety_ray.pack.personas import cast, everyone, with_persons


def test_personas_cast_draws_distinct_uniform_names() -> None:
    assert len(set(everyone())) == len(everyone()) > 600
    assert all(name.strip() == name and ":" not in name for name in everyone())
    pairs = [cast(1, str(i)) for i in range(20_000)]
    assert all(one != other for one, other in pairs)
    for side in zip(*pairs, strict=True):
        counts = Counter(side)
        assert len(counts) == len(everyone())
        assert max(counts.values()) < 3 * len(pairs) / len(counts)
    assert cast(1, "a") == cast(1, "a") != cast(2, "a")


def test_personas_with_persons_replaces_turn_prefixes() -> None:
    one, other = cast(3, "row")
    text = "User: Ask the User: now.\nAssistant: No.\n\nMore: Assistant.\nUser: Why?\n\nAssistant: So."
    assert with_persons(text, 3, "row") == (
        f"{one}: Ask the User: now.\n{other}: No.\n\nMore: Assistant.\n{one}: Why?\n\n{other}: So."
    )
    assert with_persons("No dialogue.", 3, "row") == "No dialogue."
