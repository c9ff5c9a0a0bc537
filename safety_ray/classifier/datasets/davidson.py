"""Tweets (Davidson et al. 2017), labelled as hate speech, offensive language or neither.

Hate speech is level 4 or 5 of the rubric. Offensive language is 1 to 3: most of it is a vulgar word in a
harmless tweet, some of it is demeaning. Neither is 0.
"""

from __future__ import annotations

import csv
import html
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row

LEVELS = {"0": (4, 5), "1": (1, 3), "2": (0, 0)}


def read(folder: Path) -> Iterator[Row]:
    """Yield the tweets, with HTML entities replaced by their characters."""
    [file] = LABEL_SET.files
    with open(folder / file.path, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            low, high = LEVELS[row["class"]]
            text = html.unescape(row["tweet"])  # an emoji is written as "&#128514;"
            yield {"id": f"davidson/{row['']}", "text": text, "label": low, "label_max": high}


LABEL_SET = LabelSet(
    name="davidson",
    contents="tweets",
    levels="hate 4–5, offensive 1–3, neither 0",
    files=(
        DataFile(
            "toxicity/davidson_labeled_data.csv",
            "fcb8bc7c68120ae4af04a5b9acd58585513ede11e1548ebf36a5c2040b6f6281",
        ),
    ),
    url="https://github.com/t-davidson/hate-speech-and-offensive-language",
    licence="MIT",
    how_to_get="Copy data/labeled_data.csv from that repository and rename it.",
    read=read,
)
