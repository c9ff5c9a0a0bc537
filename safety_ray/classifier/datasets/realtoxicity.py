"""RealToxicityPrompts (Gehman et al. 2020): web sentences with the Perspective API's scores.

All six levels come from it: a text is as harmful as the highest level that one of its attributes
reaches, in its prompt or its continuation. Profanity alone never makes more than level 1, an insult
never more than 2 (the rubric's "petty insults"); sexual content, threats and attacks on a group make
3, and 4 where Perspective is sure; 5 is an attack or a threat in severely toxic words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES = ("toxicity/rtp_nontoxic_scored.jsonl", "toxicity/rtp_toxic_scored.jsonl")

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
"""(attribute, score from which on, level)"""


def read(folder: Path) -> Iterator[dict[str, Any]]:
    for path in FILES:
        with open(folder / path) as file:
            for line in file:
                row = json.loads(line)
                halves = [row["prompt"], row["continuation"]]
                worst = {name: max(half.get(name) or 0.0 for half in halves) for name, _, _ in REACHES}
                found = level(worst)
                yield {
                    "id": f"realtoxicity/{row['filename']}/{row['begin']}",
                    "text": "".join(half["text"] for half in halves),
                    "label": found,
                    "label_max": found,
                }


def level(worst: dict[str, float]) -> int:
    """The level of a text whose attributes reach the scores `worst`."""
    attack = max(worst["identity_attack"], worst["threat"])
    if worst["severe_toxicity"] >= 0.7 and attack >= 0.8:
        return 5
    return max((reached for name, least, reached in REACHES if worst[name] >= least), default=0)
