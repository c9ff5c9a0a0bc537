"""Requests to an assistant: harmful ones (Bianchi et al. 2024) and harmless ones (Alpaca).

A harmful request is 2 to 5, a harmless one is 0 or 1. They differ in what is requested, rarely in a single
word. Requests that mention children are skipped in both files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row

HARMFUL = DataFile(
    "refusal_sft/bianchi_safety_only_2483.json",
    "7dde08acf87f10cf74fd1b76f56538eae8e413ae8e6b09e3f7bcd97769058dbe",
)
HARMLESS = DataFile(
    "over_refusal/alpaca_harmless_val.json",
    "772010758e7d771ef4c7e5e4acdfd7598dcece1a6f383f20d382f640913a2a4d",
)
_ROWS = 2500  # about the number of harmful requests
_YOUNG = re.compile(r"\b(child\w*|kids?|minors?|teen\w*|under-?age\w*|girls?|boys?|pedo\w*|young)\b", re.I)


def read(folder: Path) -> Iterator[Row]:
    """Yield the harmful requests and about as many harmless ones."""
    for file, low, high in ((HARMFUL, 2, 5), (HARMLESS, 0, 1)):
        with open(folder / file.path, encoding="utf-8") as opened:
            rows = json.load(opened)
        for number, row in enumerate(rows[:_ROWS]):
            if not _YOUNG.search(row["instruction"]):
                yield {
                    "id": f"instructions/{low}/{number}",
                    "text": row["instruction"],
                    "label": low,
                    "label_max": high,
                }


LABEL_SET = LabelSet(
    name="instructions",
    contents="requests to an assistant",
    levels="harmful 2–5, harmless 0–1",
    files=(HARMFUL, HARMLESS),
    url="https://github.com/vinid/safety-tuned-llamas",
    licence="harmful: not stated; harmless (Alpaca): CC BY-NC 4.0",
    how_to_get="Copy data/training/safety_only_data_Instructions.json from that repository and "
    "dataset/splits/harmless_val.json from https://github.com/andyrdt/refusal_direction, and rename them.",
    read=read,
)
