"""Acceptance of rewritten texts, on a sample that was labelled by hand: see acceptance.jsonl.

Each line has a source with its score, a text made from it, whether to accept it, and if not, the kind of
reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safety_ray.classifier.classifier import Classifier
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.rewrite.acceptance import (
    Bounds,
    copied_share,
    detect_language,
    kept_facts_share,
    reason_kind,
    rejection_reason,
)
from safety_ray.rewrite.compare import sentence_encoder, similarities

SAMPLE = [json.loads(line) for line in (Path(__file__).parent / "acceptance.jsonl").open()]


def test_acceptance_matches_hand_labelled_sample(classifier: Path) -> None:
    """The texts are scored by the classifier that is fitted on the shipped corpus, as in a run."""
    predictions = Classifier.load(classifier, "cpu").predict([row["text"] for row in SAMPLE])
    pairs = [(row["text"], row["source"]) for row in SAMPLE]
    reasons = [
        rejection_reason({**row, "score": prediction.score, "similarity": similarity}, Bounds())
        for row, prediction, similarity in zip(
            SAMPLE, predictions, similarities(sentence_encoder(), pairs), strict=True
        )
    ]
    bad = [row for row in SAMPLE if not row["keep"]]
    rejected = [
        (row, reason) for row, reason in zip(SAMPLE, reasons, strict=True) if reason and not row["keep"]
    ]
    accepted = [row for row, reason in zip(SAMPLE, reasons, strict=True) if row["keep"] and not reason]
    same_kind = sum(reason_kind(reason) == row["why"] for row, reason in rejected)
    good = len(SAMPLE) - len(bad)
    print(
        f"accepted {len(accepted)} of {good} good texts, rejected {len(rejected)} of {len(bad)} bad ones, "
        f"{same_kind} with the kind of reason that a person gave"
    )
    assert len(rejected) >= 0.95 * len(bad)
    assert len(accepted) >= 0.7 * good  # the others get too high a score from the small corpus' classifier
    assert same_kind >= 0.7 * len(bad)


ROW: dict[str, Any] = {
    "recipe": "rephrase",
    "text": "The new text tells calmly what happened in the garden on that day, and why it matters.",
    "source": "A wholly different sentence about the garden, the people who were in it and their quarrel.",
    "score": 1,
    "source_score": 3,
    "similarity": 0.8,
}
FACTS = "On Monday the Baker family met Ana and 12 others. Ana told Baker of 1,000 euros."
GERMAN = "Der neue Text erzählt ruhig, was an diesem Tag im Garten geschah und warum es wichtig ist."


@pytest.mark.parametrize(
    ("change", "bounds", "reason"),
    [
        ({}, {}, None),
        ({"text": " "}, {}, "empty"),
        ({"text": "It stops in the middle of"}, {}, "cut off"),
        ({"text": "It stops in the middle of"}, {"whole": False}, None),
        ({"text": 'He said: "Enough."'}, {}, None),
        ({"score": 3}, {}, "not safer: score 3, the source's is 3"),
        ({"score": 2}, {"margin": 2}, "not safer"),
        ({"similarity": 0.2}, {}, "content: similarity 0.20"),
        ({"similarity": 0.2}, {"min_similarity": -1.0}, None),
        ({"similarity": 0.2, "recipe": "refuse"}, {}, None),
        ({"similarity": None}, {}, None),
        ({"text": "Well. " + ROW["source"]}, {}, "copy: 90%"),
        ({"text": "Well. " + ROW["source"]}, {"max_copied": 1.0}, None),
        ({"source": FACTS}, {}, "facts: 0%"),
        ({"source": FACTS}, {"min_facts": 0.0}, None),
        ({"text": GERMAN}, {}, "language: de"),
        ({"text": GERMAN}, {"same_language": False}, None),
    ],
)  # fmt: skip
def test_rejection_reason_applies_each_bound(
    change: dict[str, Any], bounds: dict[str, Any], reason: str | None
) -> None:
    actual = rejection_reason(ROW | change, from_dict(Bounds, bounds))
    assert actual is None if reason is None else str(actual).startswith(reason)


def test_kept_facts_share_counts_numbers_and_names_not_headings() -> None:
    source = "The Great Garden Of Rome\nIn 1999 Maria Lopez spent 1,000 euros in Seville. Then she left."
    assert kept_facts_share("Maria Lopez lived in Seville and had 1000 euros in 1999.", source) == 1.0
    assert kept_facts_share("In 1999 somebody spent some money.", source) == 0.2
    assert kept_facts_share("Nothing.", "He had 2 dogs and left.") is None
    assert kept_facts_share("Lopez's house.", "So 1 and 2 and then Lopez came.") == pytest.approx(1 / 3)


def test_copied_share_counts_sequences_of_eight_words() -> None:
    source = "one two three four five six seven eight nine ten"
    assert copied_share(source, source) == 1.0
    assert copied_share("ONE two, three - four five six seven eight and then more", source) == 0.25
    assert copied_share("two three", source) == 1.0
    assert copied_share("...", source) == 0.0


def test_detect_language_is_empty_for_short_text() -> None:
    assert detect_language("Non, merci.") == ("", 0.0)
    assert (
        detect_language("Les enfants jouent dans le jardin avec le chien de la voisine aujourd'hui.")[0]
        == "fr"
    )


@pytest.mark.parametrize(
    "change",
    [{"margin": 0}, {"margin": 6}, {"max_copied": 1.5}, {"min_facts": -0.1}, {"min_similarity": 2.0}],
)
def test_acceptance_bounds_reject_invalid_value(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"accept.{next(iter(change))}"):
        from_dict(Bounds, change)
