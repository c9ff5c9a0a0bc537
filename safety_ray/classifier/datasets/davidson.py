"""Tweets of Davidson et al. 2017, labelled hate speech, offensive language or neither.

Hate speech is 4 or 5 in the rubric. Offensive language is 1 to 3: most of it is a vulgar word in a
calm tweet, some of it demeans. Neither is 0.
"""

from __future__ import annotations

import csv
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "toxicity/davidson_labeled_data.csv"
LEVELS = {"0": (4, 5), "1": (1, 3), "2": (0, 0)}


def read(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / FILE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            least, most = LEVELS[row["class"]]
            text = html.unescape(row["tweet"])  # the set writes "&#128514;" for an emoji
            yield {"id": f"davidson/{row['']}", "text": text, "label": least, "label_max": most}
