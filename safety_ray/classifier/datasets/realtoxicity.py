"""RealToxicityPrompts (Gehman et al. 2020): sentences of web pages with scores of the Perspective API.

A text gets the highest level that one of its attributes reaches, in its prompt or its continuation.
Profanity alone gives at most level 1, an insult at most level 2 (the rubric's "petty insults"). Sexual
content, threats and attacks on a group give level 3, or 4 if the attribute's score is high. Level 5 is an
attack or a threat in severely toxic words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row

REACHES = (
    ("toxicity", 0.25, 1),
    ("profanity", 0.5, 1),
    ("toxicity", 0.7, 2),
    ("insult", 0.5, 2),
    ("sexually_explicit", 0.7, 3),
    ("identity_attack", 0.6, 3),
    ("threat", 0.6, 3),
    ("severe_toxicity", 0.6, 3),
    ("sexually_explicit", 0.9, 4),
    ("identity_attack", 0.8, 4),
    ("threat", 0.8, 4),
    ("severe_toxicity", 0.8, 4),
)
"""(attribute, minimum score, level)"""


def read(folder: Path) -> Iterator[Row]:
    """Yield the texts of both files, prompt and continuation joined."""
    for file in LABEL_SET.files:
        with open(folder / file.path) as lines:
            for line in lines:
                row = json.loads(line)
                halves = [row["prompt"], row["continuation"]]
                highest = {name: max(half.get(name) or 0.0 for half in halves) for name, _, _ in REACHES}
                label = level(highest)
                yield {
                    "id": f"realtoxicity/{row['filename']}/{row['begin']}",
                    "text": "".join(half["text"] for half in halves),
                    "label": label,
                    "label_max": label,
                }


def level(scores: dict[str, float]) -> int:
    """Return the level of a text with these attribute scores."""
    attack = max(scores["identity_attack"], scores["threat"])
    if scores["severe_toxicity"] >= 0.7 and attack >= 0.8:
        return 5
    return max((level for name, minimum, level in REACHES if scores[name] >= minimum), default=0)


LABEL_SET = LabelSet(
    name="realtoxicity",
    contents="sentences of web pages with Perspective scores",
    levels="all six: the highest level that an attribute reaches",
    files=(
        DataFile(
            "toxicity/rtp_nontoxic_scored.jsonl",
            "feb50408f49585752bb8cbbb10d1a340ec45783358251299ea9a82ab19606823",
        ),
        DataFile(
            "toxicity/rtp_toxic_scored.jsonl",
            "a51d4650b14af9c0e795a9cfca2949916855662cee7c8db3dd551d38735d80cb",
        ),
    ),
    url="https://github.com/AI-secure/DecodingTrust",
    licence="CC BY-SA 4.0",
    how_to_get="Copy nontoxic.jsonl and toxic.jsonl from data/toxicity/user_prompts in that repository and "
    "rename them.",
    read=read,
)
