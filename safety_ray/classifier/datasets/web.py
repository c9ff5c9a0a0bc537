"""Articles of the article extraction benchmark. A web article is 0 to 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row
from safety_ray.classifier.datasets.prose import chunks


def read(folder: Path) -> Iterator[Row]:
    """Yield the articles in chunks."""
    [file] = LABEL_SET.files
    with open(folder / file.path, encoding="utf-8") as opened:
        articles = [page["articleBody"] for page in json.load(opened).values()]
    yield from chunks("web", articles, 2)


LABEL_SET = LabelSet(
    name="web",
    contents="articles of web pages, unlabelled",
    levels="0–2",
    files=(
        DataFile(
            "web/article_extraction/ground-truth.json",
            "512e9a9498912047a966e22f47302e849dfa45dca1f555d97588317dac7e5a3d",
        ),
    ),
    url="https://github.com/scrapinghub/article-extraction-benchmark",
    licence="repository: MIT; the articles belong to their publishers",
    how_to_get="Copy ground-truth.json from that repository.",
    read=read,
)
