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
from safety_ray.report.ngrams import find_ngrams, load_lists
from safety_ray.report.tally import count_originals, count_rewritten, merge_cells


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
    assert card["headline"]["share_score_0"] == {
        "before": 0.4,
        "after": pytest.approx(2 / 3),
        "change": pytest.approx(2 / 3),
    }


def test_report_card_omits_after_slice_without_rewritten(card_before: dict[str, Any]) -> None:
    assert "after" not in card_before["slices"]
    assert list(card_before["ngrams"]) == ["before"]
    assert card_before["headline"]["documents"] == {"before": 5, "after": None, "change": None}


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
