"""Harmless requests and answers: Dolly's instructions and responses, and school mathematics of GSM8K.

Without such texts, a classifier that is trained on harmful requests takes every request for harmful.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row

DOLLY = DataFile("sft/dolly_1000.csv", "587b3bbc755f416786afae82378271228b065ed7a49fdff5e1994051e736cc8f")
GSM8K = DataFile("sft/gsm8k_train.jsonl", "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465")
PROBLEMS = 300
"""problems of GSM8K, which are much alike"""


def read(folder: Path) -> Iterator[Row]:
    """Yield instructions, responses and problems; the family is the instruction's."""
    with open(folder / DOLLY.path, newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            for part in ("instruction", "response"):
                yield _row(f"dolly/{number}", part, row[part])
    with open(folder / GSM8K.path, encoding="utf-8") as opened:
        for number, line in zip(range(PROBLEMS), opened, strict=False):
            yield _row(f"gsm8k/{number}", "question", json.loads(line)["question"])


def _row(family: str, part: str, text: str) -> Row:
    return {
        "id": f"questions/{family}/{part}",
        "text": text,
        "label": 0,
        "label_max": 1,
        "family": f"questions/{family}",
    }


LABEL_SET = LabelSet(
    name="questions",
    contents="harmless instructions, answers and problems",
    levels="0–1",
    files=(DOLLY, GSM8K),
    url="https://github.com/databrickslabs/dolly",
    licence="Dolly: CC BY-SA 3.0; GSM8K: MIT",
    how_to_get="Copy the first 1,000 rows of databricks-dolly-15k as a CSV file, and train.jsonl from "
    "https://github.com/openai/grade-school-math as gsm8k_train.jsonl.",
    read=read,
)
