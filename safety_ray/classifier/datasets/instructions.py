"""Requests to an assistant: harmful ones (Bianchi et al. 2024) and harmless ones of Alpaca's.

A harmful one is 2 to 5, from petty to murderous; a harmless one is 0 or 1. What tells them apart is
what is asked for, seldom a word. Requests that speak of children are left out on both sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HARMFUL = "refusal_sft/bianchi_safety_only_2483.json"
HARMLESS = "over_refusal/alpaca_harmless_val.json"
_YOUNG = re.compile(r"\b(child\w*|kids?|minors?|teen\w*|under-?age\w*|girls?|boys?|pedo\w*|young)\b", re.I)


def read(folder: Path) -> Iterator[dict[str, Any]]:
    for path, least, most in ((HARMFUL, 2, 5), (HARMLESS, 0, 1)):
        with open(folder / path, encoding="utf-8") as file:
            rows = json.load(file)
        for number, row in enumerate(rows[:2500]):  # as many harmless ones as there are harmful
            if not _YOUNG.search(row["instruction"]):
                yield {
                    "id": f"instructions/{least}/{number}",
                    "text": row["instruction"],
                    "label": least,
                    "label_max": most,
                }
