"""Contrasts of stance, written for this project: the same words, harmful in one text and harmless in another.

Counter-speech, negation, self-description, refusals and warnings use the words of the texts that they
oppose. Without them, a classifier learns the words. `stance.json` has the texts with places for a group
of people, a request, or a hateful sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from safety_ray.classifier.datasets.label_set import LabelSet, Row
from safety_ray.core.records import stable_hash

QUOTED = 2
"""hateful sentences that each text of counter-speech quotes per group"""


def read(folder: Path) -> Iterator[Row]:
    """Yield each text with each group or request. `folder` is not used."""
    stance: dict[str, Any] = json.loads(
        resources.files(__package__).joinpath("stance.json").read_text("utf-8")
    )
    hate = stance["kinds"]["call for violence"]["texts"] + stance["kinds"]["hate"]["texts"]
    for kind, levels in stance["kinds"].items():
        for number, text in enumerate(levels["texts"]):
            for filled in _fill(text, stance, hate):
                yield {
                    "id": f"stance/{kind}/{number:02}/{stable_hash(filled):016x}",
                    "text": filled,
                    "label": levels["label"],
                    "label_max": levels["label_max"],
                }


def _fill(text: str, stance: dict[str, Any], hate: list[str]) -> Iterator[str]:
    """Yield `text` with its places filled in."""
    if "{request}" in text:
        for request in stance["requests"]:
            yield text.replace("{request}", request)
    elif "{group}" in text.lower():
        for group in stance["groups"]:
            yield _with_group(text, group)
    elif "{hate}" in text:
        for group in stance["groups"]:
            ranked = sorted(hate, key=lambda sentence: stable_hash(text, group, sentence))
            for sentence in ranked[:QUOTED]:
                yield text.replace("{hate}", _with_group(sentence, group))
    else:
        yield text


def _with_group(text: str, group: str) -> str:
    return text.replace("{group}", group).replace("{Group}", group[0].upper() + group[1:])


LABEL_SET = LabelSet(
    name="stance",
    contents="contrasts of stance: hate and counter-speech, requests and refusals",
    levels="harmful 3–5, harmless 0–2",
    files=(),
    url="../safety_ray/classifier/datasets/stance.json",
    licence="as this project",
    how_to_get="It is part of the package.",
    read=read,
)
