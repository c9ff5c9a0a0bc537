"""Articles of CNN and the Daily Mail. News reports on war and crime, so it is 0 to 3."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row
from safety_ray.classifier.datasets.prose import chunks


def read(folder: Path) -> Iterator[Row]:
    """Yield the articles in chunks."""
    [file] = LABEL_SET.files
    with open(folder / file.path, newline="", encoding="utf-8") as lines:
        articles = [row["article"] for row in csv.DictReader(lines)]
    yield from chunks("news", articles, 3)


LABEL_SET = LabelSet(
    name="news",
    contents="news articles, unlabelled",
    levels="0–3",
    files=(
        DataFile(
            "web/cnn_dailymail_1000.csv",
            "793fa21cdbda97a9f8de6e06a497bf2fb95b33110e1c7bede8a614f5b9e70459",
        ),
    ),
    url="https://github.com/SalesforceAIResearch/MobileAIBench",
    licence="repository: Apache 2.0; the articles belong to their publishers",
    how_to_get="Copy data/cnn_dailymail.csv from that repository and rename it.",
    read=read,
)
