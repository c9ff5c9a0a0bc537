"""Prompts of BeaverTails (Ji et al. 2023), labelled safe or with categories of harm.

A harmful prompt is 2 to 5: the set holds pranks and plans of murder alike, and does not grade them.
A safe one is 0 or 1. Prompts marked as about children's abuse are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "toxicity/beavertails_test_3021.json"
LEVELS = {"harmful": (2, 5), "safe": (0, 1)}


def read(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / FILE, encoding="utf-8") as file:
        rows = json.load(file)
    for number, row in enumerate(rows):
        if "'child_abuse': True" in row["category"]:
            continue
        least, most = LEVELS[row["label"]]
        yield {"id": f"beavertails/{number}", "text": row["text"], "label": least, "label_max": most}
