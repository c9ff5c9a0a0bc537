"""A percentage of fewer than ten hits has its interval, or is not shown: on page, README and console."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

from safety_ray.report.formatting import compare_rates, format_bar, format_part, format_share
from safety_ray.report.in_memory import build_report_card
from safety_ray.report.page import render_page
from safety_ray.report.readme import render_readme
from safety_ray.report.summary import console

CHANGE = re.compile(r"[−+±][\d.,]+%")
DOCUMENTS = 50


def card_of(before: int, after: int, safe: int = 20, severe: int = 20) -> dict[str, Any]:
    """Return the card of documents with these numbers of n-grams, of score 0, and of score 4."""
    scores = [0] * safe + [4] * severe + [2] * (DOCUMENTS - safe - severe)
    harmless = "a page about soup and bread"
    scored = [
        # Documents that are kept have no n-gram, so that `after` counts those of rewritten texts.
        {"id": str(k), "score": score, "text": "hate speech" if safe <= k < safe + before else harmless}
        for k, score in enumerate(scores)
    ]
    texts = [
        {
            "source_id": row["id"],
            "recipe": "rephrase",
            "source_score": row["score"],
            "score": 0,
            "text": "hate speech" if k < after else harmless,
        }
        for k, row in enumerate(scored[safe:])
    ]
    card = build_report_card(pa.Table.from_pylist(scored), pa.Table.from_pylist(texts), "A card")
    return {**card, "inputs": {"scored": "0011"}}


def shown(card: dict[str, Any]) -> dict[str, str]:
    """Return the text of each form of the card, without the page's style sheet."""
    page = re.sub(r"<style>.*</style>", "", render_page(card), flags=re.DOTALL)
    return {"page": page, "readme": render_readme(card, "en", "mit"), "console": console(card)}


@pytest.mark.parametrize(("before", "after"), [(9, 20), (20, 9), (9, 9), (30, 0), (0, 30)])
def test_few_hits_have_no_change_in_percent(before: int, after: int) -> None:
    card = card_of(before, after, safe=9)
    pair = card["headline"]["ngrams_per_million"]
    assert (pair["before"]["count"], pair["after"]["count"], pair["change"]) == (before, after, None)
    for name, text in shown(card).items():
        assert not CHANGE.search(text), name


def test_ten_hits_have_change_in_percent() -> None:
    card = card_of(10, 20)
    words = [card["slices"][mix]["words"] for mix in ("before", "after")]
    change = (20 / words[1]) / (10 / words[0]) - 1
    assert card["headline"]["ngrams_per_million"]["change"] == pytest.approx(change, abs=1e-4)
    for name, text in shown(card).items():
        assert CHANGE.findall(text).count(f"+{change:.0%}") >= 1, name


@pytest.mark.parametrize(("severe", "interval"), [(9, True), (10, False)])
def test_few_documents_have_share_with_interval(severe: int, interval: bool) -> None:
    rows = [{"id": str(k), "score": 4 if k < severe else 0, "text": "hate speech"} for k in range(DOCUMENTS)]
    card = {**build_report_card(pa.Table.from_pylist(rows)), "inputs": {"scored": "0011"}}
    texts = shown(card)
    expected = "18% (8.6%–31%)" if interval else "20%"
    assert format_share(card["headline"]["share_score_4_5"]["before"]) == expected
    assert f"documents of score 4 or 5 | {expected} |" in texts["readme"]
    assert texts["console"].splitlines()[-3].endswith(f" {expected}")
    assert ("95% interval 8.6%–31%" in texts["page"]) == interval
    assert (">n=9</text>" if interval else ">20%</text>") in texts["page"]


def test_lead_names_documents_and_words_before_harm() -> None:
    card = card_of(20, 20)
    for name, text in shown(card).items():
        lead, harm = text.index("kept unchanged"), text.index("n-grams per million words")
        assert lead < text.index("lost", lead) < harm, name
        expected = "kept unchanged, of 50 documents (40%)" if name == "page" else "20 of 50 (40%)"
        assert expected in text, name


@pytest.mark.parametrize(("documents", "expected"), [(9, "9 of 90"), (10, "10 of 90 (11%)")])
def test_format_part_has_percent_from_ten_documents(documents: int, expected: str) -> None:
    part, whole = {"documents": documents, "words": 40}, {"documents": 90, "words": 80}
    assert format_part(part, whole, "documents") == expected
    assert format_part(part, whole, "words") == ("40 of 80" if documents < 10 else "40 of 80 (50%)")
    named = format_part(part, whole, "words", "words")
    assert named == ("40 of 80 words" if documents < 10 else "40 of 80 words (50%)")
    assert format_part(part, {"documents": 90, "words": 0}, "words") == "40 of 0"


@pytest.mark.parametrize(
    ("low", "count", "expected"),
    [(90.0, 9, ("higher", True)), (10.0, 9, ("–", False)), (90.0, 10, ("+900%", True))],
)
def test_compare_rates_gives_direction_of_few_hits(
    low: float, count: int, expected: tuple[str, bool]
) -> None:
    before = {"count": 12, "per_million": 10.0, "low": 5.0, "high": 20.0}
    after = {"count": count, "per_million": 100.0, "low": low, "high": 200.0}
    assert compare_rates(before, after) == expected
    assert compare_rates(before, None) == ("–", False)


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (9, "n=9"), (10, "20%")])
def test_format_bar_has_percent_from_ten_documents(count: int, expected: str) -> None:
    assert format_bar({"count": count, "value": count / 50}) == expected
    assert format_bar({"count": 10, "value": 0.0001}) == "<1%"
    assert format_bar({"count": 997, "value": 0.997}) == ">99%"
    assert format_bar({"count": 10, "value": 1.0}) == "100%"
    assert format_bar(None) == ""
