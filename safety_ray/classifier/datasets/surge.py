"""Comments from social media that people at Surge AI called toxic or not.

Toxic is 2 to 5, from a petty insult to hate; not toxic is 0 or 1, for mild swearing is among it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "toxicity/surge_toxicity_en.csv"
LEVELS = {"Toxic": (2, 5), "Not Toxic": (0, 1)}


def read(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / FILE, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            least, most = LEVELS[row["is_toxic"]]
            yield {"id": f"surge/{number}", "text": row["text"], "label": least, "label_max": most}
