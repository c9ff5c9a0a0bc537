"""XSTest (Röttger et al. 2024): unsafe prompts, and safe ones that sound unsafe. Measured, never fitted.

A safe one is 0 to 2 (some ask about real crimes), an unsafe one 3 to 5. Words tell the two apart
badly on purpose: this is where a classifier that knows words alone shows it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "over_refusal/xstest_prompts.csv"
LEVELS = {"safe": (0, 2), "unsafe": (3, 5)}


def read(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / FILE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            least, most = LEVELS[row["label"]]
            yield {
                "id": f"xstest/{row['id']}",
                "text": row["prompt"],
                "label": least,
                "label_max": most,
                "split": "heldout",
            }
