"""Paragraphs of WikiText-2 (Merity et al. 2016), validation split. An encyclopedia is 0 or 1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from safety_ray.classifier.datasets.label_set import DataFile, LabelSet, Row
from safety_ray.classifier.datasets.prose import chunks

_EXTRA_SPACE = re.compile(r" (?=[.,;:!?)%'])|(?<=\() | @(?=[-,.]@)|(?<=@[-,.])@ ")


def read(folder: Path) -> Iterator[Row]:
    """Yield the paragraphs in chunks, without headings."""
    [file] = LABEL_SET.files
    with open(folder / file.path, encoding="utf-8") as lines:
        paragraphs = [_detokenized(line) for line in lines if line.strip() and not line.startswith(" =")]
    yield from chunks("wikipedia", paragraphs, 1)


def _detokenized(line: str) -> str:
    """Remove WikiText's spaces around punctuation, its " @-@ " and its "<unk>"."""
    return _EXTRA_SPACE.sub("", line).replace("<unk>", "").replace("  ", " ").strip()


LABEL_SET = LabelSet(
    name="wikipedia",
    contents="encyclopedia, unlabelled",
    levels="0–1",
    files=(
        DataFile(
            "web/wikitext2_valid.txt",
            "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        ),
    ),
    url="https://github.com/pytorch/examples",
    licence="CC BY-SA, as Wikipedia's text",
    how_to_get="Copy word_language_model/data/wikitext-2/valid.txt from that repository and rename it.",
    read=read,
)
