"""Which rewritten texts are kept, on texts that were labelled by hand: see acceptance.jsonl.

Each line has a source with its score, a text made of it, whether it should be kept, and if not, why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safety_ray.classifier.classifier import Classifier
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.rewrite.acceptance import Bounds, copied, facts_kept, kind, language, verdict
from safety_ray.rewrite.compare import sentence_encoder, similarities

SAMPLE = [json.loads(line) for line in (Path(__file__).parent / "acceptance.jsonl").open()]


def test_acceptance_matches_hand_labelled_sample(classifier: Path) -> None:
    """Scored by the classifier that is fitted on the shipped corpus, as a run would."""
    judge = Classifier.load(classifier, "cpu")
    scores = [found.score for found in judge.predict([row["text"] for row in SAMPLE])]
    alike = similarities(sentence_encoder(), [(row["text"], row["source"]) for row in SAMPLE])
    found = [
        verdict({**row, "score": score, "similarity": near}, Bounds())
        for row, score, near in zip(SAMPLE, scores, alike, strict=True)
    ]
    bad = [row for row in SAMPLE if not row["keep"]]
    caught = [row for row, reason in zip(SAMPLE, found, strict=True) if reason and not row["keep"]]
    kept = [row for row, reason in zip(SAMPLE, found, strict=True) if row["keep"] and not reason]
    named = [
        kind(reason) == row["why"]
        for row, reason in zip(SAMPLE, found, strict=True)
        if reason and not row["keep"]
    ]
    good = len(SAMPLE) - len(bad)
    print(
        f"kept {len(kept)} of {good} good texts, rejected {len(caught)} of {len(bad)} bad ones, "
        f"{sum(named)} with the reason a person gave"
    )
    assert len(caught) >= 0.95 * len(bad)
    assert len(kept) >= 0.7 * good  # what is lost is lost to the small corpus' classifier
    assert sum(named) >= 0.7 * len(bad)


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
def test_acceptance_verdict_applies_each_bound(
    change: dict[str, Any], bounds: dict[str, Any], reason: str | None
) -> None:
    found = verdict(ROW | change, from_dict(Bounds, bounds))
    assert found is None if reason is None else str(found).startswith(reason)


def test_facts_kept_counts_numbers_and_names_not_headings() -> None:
    source = "The Great Garden Of Rome\nIn 1999 Maria Lopez spent 1,000 euros in Seville. Then she left."
    assert facts_kept("Maria Lopez lived in Seville and had 1000 euros in 1999.", source) == 1.0
    assert facts_kept("In 1999 somebody spent some money.", source) == 0.2
    assert facts_kept("Nothing.", "He had 2 dogs and left.") is None
    assert facts_kept("Lopez's house.", "So 1 and 2 and then Lopez came.") == pytest.approx(1 / 3)


def test_copied_counts_runs_of_eight_words() -> None:
    source = "one two three four five six seven eight nine ten"
    assert copied(source, source) == 1.0
    assert copied("ONE two, three - four five six seven eight and then more", source) == 0.25
    assert copied("two three", source) == 1.0
    assert copied("...", source) == 0.0


def test_language_is_empty_for_short_text() -> None:
    assert language("Non, merci.") == ("", 0.0)
    assert language("Les enfants jouent dans le jardin avec le chien de la voisine aujourd'hui.")[0] == "fr"


@pytest.mark.parametrize(
    "change",
    [{"margin": 0}, {"margin": 6}, {"max_copied": 1.5}, {"min_facts": -0.1}, {"min_similarity": 2.0}],
)
def test_acceptance_bounds_reject_invalid_value(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"accept.{next(iter(change))}"):
        from_dict(Bounds, change)
