"""The card's numbers, compared with counts by hand and with counts of each text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_data import REWRITTEN_ROWS, SCORED_ROWS, table

from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORED
from safety_ray.report.card import build_card
from safety_ray.report.in_memory import build_report_card
from safety_ray.report.ngrams import find_ngrams, load_lists
from safety_ray.report.tally import Cell, Sums, count_originals, count_rewritten, merge_cells


def test_report_card_matches_hand_counts(card: dict[str, Any]) -> None:
    slices = card["slices"]
    before, after = slices["before"], slices["after"]
    assert (before["documents"], before["words"], before["scores"]) == (5, 40, [2, 0, 1, 0, 1, 1])
    assert (after["documents"], after["words"], after["scores"]) == (6, 36, [4, 1, 0, 0, 1, 0])
    assert before["categories"]["Hate"]["count"] == 5
    assert before["categories"]["Hate"]["documents"] == 2
    assert before["categories"]["Hate"]["per_million"] == pytest.approx(5 / 40 * 1e6, abs=0.001)
    # "counterfeit goods" is in two lists: it counts in both, and once in the total.
    assert before["categories"]["Non-Violent Crimes"]["count"] == 2
    assert before["categories"]["Intellectual Property"]["count"] == 2
    assert before["all"]["count"] == 9
    assert after["all"]["count"] == 2
    assert after["categories"]["Hate"]["count"] == after["categories"]["Privacy"]["count"] == 1
    assert [slices[f"original-{k}"]["documents"] for k in range(6)] == [2, 0, 1, 0, 1, 1]
    assert slices["original-1"]["all"] is None
    assert slices["refuse"]["scores"] == [0, 1, 0, 0, 1, 0]
    assert slices["rewritten-from-4"]["documents"] == 2
    assert slices["refuse-from-5"]["words"] == 1
    assert "rephrase-from-1" not in slices
    assert card["ngrams"]["before"][0] == {
        "ngram": "hate speech",
        "categories": ["Hate"],
        "count": 4,
        "per_million": pytest.approx(4 / 40 * 1e6, abs=0.001),
    }
    safe = card["headline"]["share_score_0"]
    assert [(safe[mix]["count"], safe[mix]["value"]) for mix in ("before", "after")] == [
        (2, 0.4),
        (4, pytest.approx(2 / 3)),
    ]
    assert card["outcomes"] == {
        "all": {"documents": 5, "words": 40},
        "kept": {"documents": 2, "words": 20},
        "rewritten": {"documents": 3, "words": 20, "texts": 4, "text_words": 16},
        "lost": {"documents": 0, "words": 0},
    }


def test_report_card_omits_after_slice_without_rewritten(card_before: dict[str, Any]) -> None:
    assert "after" not in card_before["slices"]
    assert list(card_before["ngrams"]) == ["before"]
    assert card_before["headline"]["ngrams_per_million"]["after"] is None
    assert card_before["outcomes"] == {"all": {"documents": 5, "words": 40}}


def test_report_card_counts_lost_documents_by_source() -> None:
    scored = [
        {"id": "a", "score": 0, "text": "one"},
        {"id": "b", "score": 2, "text": "one two"},
        {"id": "c", "score": 4, "text": "one two three"},
        {"id": "d", "score": 5, "text": "one two three four"},
        {"id": "e", "score": 1, "text": "one two three four five"},
    ]
    text = {"recipe": "refuse", "source_score": 4, "score": 0, "text": "no"}
    rewritten = [
        {**text, "source_id": "c", "root_id": "c"},
        {**text, "source_id": "c", "root_id": "c"},
        {**text, "recipe": "moralize", "source_id": "d/refuse", "root_id": "d"},
    ]
    tables = pa.Table.from_pylist(scored), pa.Table.from_pylist(rewritten)
    card = build_report_card(*tables)
    found = {name: (part["documents"], part["words"]) for name, part in card["outcomes"].items()}
    assert found == {"all": (5, 15), "kept": (1, 1), "rewritten": (2, 7), "lost": (2, 7)}
    assert card["outcomes"]["rewritten"]["texts"] == card["outcomes"]["rewritten"]["text_words"] == 3
    nothing = build_report_card(tables[0], tables[1].slice(0, 0))["outcomes"]
    assert (nothing["rewritten"]["documents"], nothing["lost"]["documents"]) == (0, 4)


def test_report_card_keeps_documents_below_threshold(cells: dict[Cell, Sums]) -> None:
    card = build_card(cells, "t", rewritten=True, threshold=3)
    assert card["outcomes"]["kept"] == {"documents": 3, "words": 25}
    assert card["outcomes"]["rewritten"]["documents"] == 2
    assert card["slices"]["after"]["documents"] == 7
    assert "of score 0–2" in card["method"]["mixes"]


def random_rows(rng: np.random.Generator, documents: int) -> list[dict[str, Any]]:
    ngrams = [*load_lists().ngrams[::9], "illegal sale", "soup", "and bread", "."]
    return [
        {
            "id": str(k),
            "score": int(rng.integers(0, 6)),
            "text": " ".join(rng.choice(ngrams, rng.integers(0, 30))),
        }
        for k in range(documents)
    ]


def test_report_card_is_independent_of_batch_size() -> None:
    rows = random_rows(np.random.default_rng(0), 120)
    whole = table(rows, SCORED)
    cards = []
    for size in (1, 7, 120):
        batches = (whole.slice(start, size) for start in range(0, 120, size))
        cards.append(build_card(merge_cells(map(count_originals, batches)), "t", rewritten=False))
    assert cards[0] == cards[1] == cards[2]
    for k in range(6):
        texts = [row["text"] for row in rows if row["score"] == k]
        counts = [find_ngrams(text) for text in texts]
        measured = cards[0]["slices"][f"original-{k}"]
        assert measured["words"] == sum(len(text.split()) for text in texts)
        assert measured["all"]["count"] == sum(count.total() for count in counts)
        for index, category in enumerate(load_lists().categories):
            members = load_lists().members
            per_text = [sum(n for i, n in count.items() if index in members[i]) for count in counts]
            assert measured["categories"][category]["count"] == sum(per_text)
            assert measured["categories"][category]["documents"] == sum(n > 0 for n in per_text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 6}, "'c' has score 6; it must be an integer from 0 to 5"),
        ({"score": None}, "'c' has score None"),
        ({"text": None}, "'c' has no text"),
    ],
)
def test_count_originals_rejects_bad_row(change: dict[str, Any], message: str) -> None:
    rows = [{**row, **(change if row["id"] == "c" else {})} for row in SCORED_ROWS]
    with pytest.raises(UserError, match=message):
        merge_cells([count_originals(table(rows, SCORED))])


def test_report_tally_rejects_bad_recipe_and_score_type() -> None:
    rows = pa.Table.from_pylist([{**row, "recipe": "paraphrase"} for row in REWRITTEN_ROWS])
    with pytest.raises(UserError, match=r"'c/r' has recipe 'paraphrase'; it must be one of rephrase, refuse"):
        merge_cells([count_rewritten(rows)])
    with pytest.raises(UserError, match=r"'a' has score 0\.0; it must be an integer"):
        merge_cells([count_originals(pa.Table.from_pylist([{**row, "score": 0.0} for row in SCORED_ROWS]))])
