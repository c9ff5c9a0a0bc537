"""Prose that is calm as a rule, in pieces of every length from one sentence to a page.

Without it a classifier fitted on sets of short shouting texts takes length or a sober tone for a sign
of either kind. Nobody labelled it, so it only says what is most likely: an encyclopedia is 0 or 1, a
web article at most 2, the news, which speak of war and crime, at most 3.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safety_ray.core.records import stable_hash

WIKIPEDIA = "web/wikitext2_valid.txt"
NEWS = "web/cnn_dailymail_1000.csv"
WEB = "web/article_extraction/ground-truth.json"
SENTENCES = (1, 2, 3, 5, 8, 13)
"""lengths of the pieces"""
_END = re.compile(r"(?<=[.!?])\s+(?=[\"“A-Z])")
_SPACED = re.compile(r" (?=[.,;:!?)%'])|(?<=\() | @(?=[-,.]@)|(?<=@[-,.])@ ")


def wikipedia(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / WIKIPEDIA, encoding="utf-8") as file:
        paragraphs = [_joined(line) for line in file if line.strip() and not line.startswith(" =")]
    yield from _pieces("wikipedia", paragraphs, 1)


def news(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / NEWS, newline="", encoding="utf-8") as file:
        articles = [row["article"] for row in csv.DictReader(file)]
    yield from _pieces("news", articles, 3)


def web(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / WEB, encoding="utf-8") as file:
        articles = [page["articleBody"] for page in json.load(file).values()]
    yield from _pieces("web", articles, 2)


def _joined(line: str) -> str:
    """A line of WikiText as it is written elsewhere: no spaces around commas, no " @-@ "."""
    return _SPACED.sub("", line).replace("<unk>", "").replace("  ", " ").strip()


def _pieces(name: str, texts: list[str], most: int) -> Iterator[dict[str, Any]]:
    """Each text cut from its start into pieces whose lengths its own hash draws."""
    for number, text in enumerate(texts):
        sentences = _END.split(" ".join(text.split()))
        at = 0
        while at < len(sentences):
            size = SENTENCES[stable_hash(name, number, at) % len(SENTENCES)]
            yield {
                "id": f"{name}/{number:05}/{at:04}",
                "text": " ".join(sentences[at : at + size]),
                "label": 0,
                "label_max": most,
                "family": f"{name}/{number:05}",
            }
            at += size
