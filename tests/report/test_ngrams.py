"""Matching is compared with one regular expression per n-gram, on adversarial and on real texts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_ray.report.ngrams import find_ngrams, load_lists


@cache
def patterns() -> dict[str, re.Pattern[str]]:
    """Return the rule as regular expressions: whole words, joined by white space or one hyphen."""
    between = r"(?:\s+|(?<=\w)[-\u2010](?=\w))"
    file = Path(__file__).parents[2] / "safety_ray" / "report" / "harm_ngrams.json"
    all_ngrams = {ngram for ngrams in json.loads(file.read_text()).values() for ngram in ngrams}
    return {
        ngram.replace("-", " "): re.compile(
            r"(?<!\w)(?=" + between.join(map(re.escape, re.split("[ -]", ngram))) + r"(?!\w))"
        )
        for ngram in all_ngrams
    }


def brute_force(text: str) -> dict[str, int]:
    text = unicodedata.normalize("NFKC", text).casefold()
    counts = {ngram: len(pattern.findall(text)) for ngram, pattern in patterns().items()}
    return {ngram: count for ngram, count in counts.items() if count}


def counts_of(text: str) -> dict[str, int]:
    return {load_lists().ngrams[index]: count for index, count in find_ngrams(text).items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A MASS Shooting, then another mass\n\tshooting.", {"mass shooting": 2}),
        ("Mass shootings are no biomass shooting.", {}),
        ("the mass shooting's victims (mass shooting)", {"mass shooting": 2}),
        ("mass, shooting; mass. Shooting", {}),
        ("mass_shooting mass  shooting_", {}),
        ("self-harm and SELF\u2010HARM and self\u2011harm", {"self harm": 3}),
        ("self - harm, self -harm, self--harm", {}),
        ("self harm advice", {"self harm": 1, "self harm advice": 1}),
        ("drive-by-shooting drive by shooting", {"drive by shooting": 2}),
        ("hate-filled hate filled anti-black", {"hate filled": 2, "anti black": 1}),
        ("ｍａｓｓ shooting, mass\u00a0shooting, ma\u00adss shoot\u200bing", {"mass shooting": 3}),
        ("ﬁrebomb und fireBOMB", {"firebomb": 2}),
        ("mass shootingé, émass shooting, mass shooting\u0301", {}),
        ("nerve agent nerve agent nerve", {"nerve agent": 2}),
        ("illegal sale", {"illegal sale": 1}),
        ("", {}),
    ],
)
def test_find_ngrams_matches_expected_examples(text: str, expected: dict[str, int]) -> None:
    assert counts_of(text) == expected


def test_load_lists_matches_published_lists() -> None:
    lists = load_lists()
    assert len(lists.categories) == 14
    assert len(set(lists.ngrams)) == len(lists.ngrams) == len(patterns())
    sizes = Counter(category for members in lists.members for category in members)
    assert [sizes[index] for index in range(14)] == [49, *[50] * 8, 49, 50, 50, 49, 50]
    shared = {lists.ngrams[i] for i, members in enumerate(lists.members) if len(members) > 1}
    assert shared == {"illegal sale", "illegal download", "counterfeit goods"}


def test_find_ngrams_finds_every_ngram_in_itself() -> None:
    for ngram in patterns():
        assert counts_of(f"({ngram.upper()})") == brute_force(ngram)
        assert counts_of(ngram)[ngram] == 1


WORDS = sorted({word for ngram in patterns() for word in ngram.split()})
# Fragments that often form n-grams, nearly form them, or overlap; and any text between them.
FRAGMENTS = st.one_of(
    st.sampled_from(sorted(patterns())),
    st.sampled_from(WORDS),
    st.sampled_from(
        [" ", "-", "‐", "\u2011", "\n", "\u00a0", " - ", "--", ".", "'s", "s", "_", "é", "\u0301", "１"]
    ),
    st.sampled_from(["Self", "HARM", "self harm", "advice", "child", "sexual", "exploitation", "K", "ſ"]),
    st.text(max_size=4).filter(lambda text: not set(text) & set("\u00ad\u200b\u200c\u200d\u2060\ufeff")),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(FRAGMENTS, max_size=24), st.booleans())
def test_find_ngrams_matches_brute_force(fragments: list[str], spaced: bool) -> None:
    text = (" " if spaced else "").join(fragments)
    assert counts_of(text) == brute_force(text)


def test_find_ngrams_matches_brute_force_on_real_texts(real_data: Path) -> None:
    refusals = json.loads((real_data / "refusal_sft" / "bianchi_safety_only_2483.json").read_text())
    web = (real_data / "web" / "cc_en_head-0091.jsonl").read_text().splitlines()
    texts = [" ".join(map(str, row.values())) for row in refusals[:120]]
    texts += [json.loads(row)["text"] for row in web[:3]]
    total: Counter[str] = Counter()
    for text in texts:
        assert counts_of(text) == brute_force(text)
        total.update(counts_of(text))
    assert len(total) >= 5  # the texts contain n-grams
