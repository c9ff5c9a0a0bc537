"""Real documents by source: pages, news, an encyclopedia, books and reviews; comments, tweets and posts."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from safety_ray.errors import UserError
from safety_ray.records import stable_hash

Texts = Iterator[str]
_PIECE = 3000
"""characters of a document that is cut from a book"""


def documents(folder: str, most: int, sources: list[str] | None = None) -> pa.Table:
    """id, text, source of at most `most` documents of each source in the data `folder`; seed-free."""
    found: dict[str, dict[str, str]] = {}
    for source, read in SOURCES.items():
        if sources is None or source in sources:
            try:
                texts = sorted(set(filter(str.strip, read(Path(folder)))), key=stable_hash)
            except FileNotFoundError as error:
                raise UserError(f"data={folder} lacks '{error.filename}'.") from error
            found |= {f"{source}-{n}": {"text": t, "source": source} for n, t in enumerate(texts[:most])}
    return pa.table(
        {
            "id": list(found),
            "text": [row["text"] for row in found.values()],
            "source": [row["source"] for row in found.values()],
        }
    )


def _jsonl(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from map(json.loads, file)


def _csv(path: Path, column: str) -> Texts:
    with path.open(newline="") as file:
        yield from (row[column] for row in csv.DictReader(file))


def _zip(path: Path) -> Texts:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".txt"):
                yield archive.read(name).decode("utf-8", "replace")


def _cut(texts: Texts) -> Texts:
    for text in texts:
        yield from (text[i : i + _PIECE] for i in range(0, len(text), _PIECE))


def _wiki(path: Path) -> Texts:
    yield from re.split(r"(?m)^ = [^=]+ = $", path.read_text())


def _rtp(name: str) -> Callable[[Path], Texts]:
    def read(folder: Path) -> Texts:
        for row in _jsonl(folder / "toxicity" / name):
            yield row["prompt"]["text"] + row["continuation"]["text"]  # type: ignore[index]

    return read


SOURCES: dict[str, Callable[[Path], Texts]] = {
    "common crawl": lambda f: (row["text"] for row in _jsonl(f / "web/cc_en_head-0091.jsonl")),
    "web articles": lambda f: (
        row["articleBody"]
        for row in json.loads((f / "web/article_extraction/ground-truth.json").read_text()).values()
    ),
    "news": lambda f: _csv(f / "web/cnn_dailymail_1000.csv", "article"),
    "wikipedia": lambda f: _wiki(f / "web/wikitext2_valid.txt"),
    "reviews": lambda f: _zip(f / "web/nltk/movie_reviews.zip"),
    "speeches": lambda f: _cut(_zip(f / "web/nltk/state_union.zip")),
    "plays": lambda f: _cut(iter([(f / "web/tinyshakespeare.txt").read_text()])),
    "prompts, toxic": _rtp("rtp_toxic_scored.jsonl"),
    "prompts, not toxic": _rtp("rtp_nontoxic_scored.jsonl"),
    "tweets": lambda f: _csv(f / "toxicity/davidson_labeled_data.csv", "tweet"),
    "forum posts": lambda f: (row["text"] for row in _jsonl(f / "toxicity/stormfront_posts.jsonl")),
    "comments": lambda f: _csv(f / "toxicity/surge_toxicity_en.csv", "text"),
    "questions": lambda f: (
        row["text"] for row in json.loads((f / "toxicity/beavertails_test_3021.json").read_text())
    ),
}
"""The first seven are what a crawl mostly holds, the others what it is scored for."""
