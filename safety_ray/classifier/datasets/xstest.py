"""XSTest (Röttger et al. 2024): unsafe prompts, and safe prompts that sound unsafe. Always held out.

A safe prompt is 0 to 2 (some ask for facts about real crimes), an unsafe one 3 to 5. Both use the same
words, so a classifier that relies on words alone fails here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row

LEVELS = {"safe": (0, 2), "unsafe": (3, 5)}


def read(folder: Path) -> Iterator[Row]:
    """Yield the prompts, all of them held out."""
    [file] = LABEL_SET.files
    with open(folder / file.path, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            low, high = LEVELS[row["label"]]
            yield {
                "id": f"xstest/{row['id']}",
                "text": row["prompt"],
                "label": low,
                "label_max": high,
                "split": "heldout",
            }


LABEL_SET = LabelSet(
    name="xstest",
    contents="450 prompts that sound unsafe, 200 of which are",
    levels="unsafe 3–5, safe 0–2; held out, never trained on",
    files=(
        DataFile(
            "over_refusal/xstest_prompts.csv",
            "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
        ),
    ),
    url="https://github.com/paul-rottger/exaggerated-safety",
    licence="CC BY 4.0",
    how_to_get="Copy xstest_prompts.csv from that repository.",
    read=read,
)
