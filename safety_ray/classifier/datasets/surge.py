"""Comments on social media, labelled as toxic or not by workers of Surge AI.

Toxic is 2 to 5, from a petty insult to hate. Not toxic is 0 or 1, because it includes mild swearing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row

LEVELS = {"Toxic": (2, 5), "Not Toxic": (0, 1)}


def read(folder: Path) -> Iterator[Row]:
    """Yield the comments."""
    [file] = LABEL_SET.files
    with open(folder / file.path, newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            low, high = LEVELS[row["is_toxic"]]
            yield {"id": f"surge/{number}", "text": row["text"], "label": low, "label_max": high}


LABEL_SET = LabelSet(
    name="surge",
    contents="comments on social media",
    levels="toxic 2–5, not toxic 0–1",
    files=(
        DataFile(
            "toxicity/surge_toxicity_en.csv",
            "3bfcdd54ab90c8bab232235226a00e28b0d457c3c19e87230f73dde1880e6c44",
        ),
    ),
    url="https://github.com/surge-ai/toxicity",
    licence="not stated",
    how_to_get="Copy toxicity_en.csv from that repository and rename it.",
    read=read,
)
