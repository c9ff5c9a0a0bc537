"""Prompts of BeaverTails (Ji et al. 2023), labelled as safe or with categories of harm.

A harmful prompt is 2 to 5: the set has pranks and plans of murder, without grades. A safe prompt is 0 or 1.
Prompts labelled as child abuse are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row

LEVELS = {"harmful": (2, 5), "safe": (0, 1)}


def read(folder: Path) -> Iterator[Row]:
    """Yield the prompts."""
    [file] = LABEL_SET.files
    with open(folder / file.path, encoding="utf-8") as opened:
        rows = json.load(opened)
    for number, row in enumerate(rows):
        if "'child_abuse': True" in row["category"]:
            continue
        low, high = LEVELS[row["label"]]
        yield {"id": f"beavertails/{number}", "text": row["text"], "label": low, "label_max": high}


LABEL_SET = LabelSet(
    name="beavertails",
    contents="prompts",
    levels="harmful 2–5, safe 0–1",
    files=(
        DataFile(
            "toxicity/beavertails_test_3021.json",
            "f83dce85f60cc9c659a727acb3b3a2b74013d1d5d390a148270ccf2ee1e10279",
        ),
    ),
    url="https://huggingface.co/datasets/PKU-Alignment/BeaverTails",
    licence="CC BY-NC 4.0",
    how_to_get="Copy data/benchmark/beavertails_30k.json, a subset of 3,021 prompts, from "
    "https://github.com/bigsnarfdude/wizard101 and rename it.",
    read=read,
)
