"""Real documents by source: pages, news, an encyclopedia, books and reviews; comments, tweets and posts."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from safety_ray.core.errors import UserError
from safety_ray.core.records import stable_hash

Texts = Iterator[tuple[str, int | None]]
_CHUNK = 3000
"""characters of a document made from a longer text"""
_TEXT = [("id", pa.string()), ("text", pa.string()), ("source", pa.string())]


def documents(folder: str, max_documents: int, sources: list[str] | None = None) -> pa.Table:
    """Return id, text, source and label of at most `max_documents` documents of each source in `folder`.

    A label is a human label or rating mapped to 0-5. Pages, news, encyclopedia, reviews, speeches and plays
    get 0. It is None if the source has no label for whole texts.
    """
    rows: list[dict[str, Any]] = []
    for source, read in SOURCES.items():
        if sources is None or source in sources:
            try:
                labels = {text: label for text, label in read(Path(folder)) if text.strip()}
            except FileNotFoundError as error:
                raise UserError(f"data={folder} has no file '{error.filename}'.") from error
            chosen = sorted(labels, key=stable_hash)[:max_documents]
            rows += [
                {"id": f"{source} {n}", "text": text, "source": source, "label": labels[text]}
                for n, text in enumerate(chosen)
            ]
    return pa.Table.from_pylist(rows, pa.schema([*_TEXT, ("label", pa.int8())]))


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        yield from map(json.loads, file)


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def _crawl(path: Path) -> Texts:
    yield from ((row["text"], 0) for row in _jsonl(path / "web/cc_en_head-0091.jsonl"))


def _articles(path: Path) -> Texts:
    pages = json.loads((path / "web/article_extraction/ground-truth.json").read_text())
    yield from ((page["articleBody"], 0) for page in pages.values())


def _news(path: Path) -> Texts:
    yield from ((row["article"], 0) for row in _csv(path / "web/cnn_dailymail_1000.csv"))


def _wiki(path: Path) -> Texts:
    text = (path / "web/wikitext2_valid.txt").read_text()
    yield from ((article, 0) for article in re.split(r"(?m)^ = [^=]+ = $", text))


def _reviews(path: Path) -> Texts:
    yield from ((text, 0) for text in _zip(path / "web/nltk/movie_reviews.zip"))


def _speeches(path: Path) -> Texts:
    yield from ((chunk, 0) for text in _zip(path / "web/nltk/state_union.zip") for chunk in _chunks(text))


def _plays(path: Path) -> Texts:
    yield from ((chunk, 0) for chunk in _chunks((path / "web/tinyshakespeare.txt").read_text()))


def _prompts(name: str) -> Callable[[Path], Texts]:
    def read(path: Path) -> Texts:
        for row in _jsonl(path / "toxicity" / name):
            halves = row["prompt"], row["continuation"]
            toxicity = max(half["toxicity"] or 0.0 for half in halves)
            yield halves[0]["text"] + halves[1]["text"], min(5, int(6 * toxicity))

    return read


def _tweets(path: Path) -> Texts:
    label = {"0": 5, "1": 3, "2": 0}  # hate, offensive, neither
    yield from ((r["tweet"], label[r["class"]]) for r in _csv(path / "toxicity/davidson_labeled_data.csv"))


def _posts(path: Path) -> Texts:
    yield from ((row["text"], None) for row in _jsonl(path / "toxicity/stormfront_posts.jsonl"))


def _comments(path: Path) -> Texts:
    rows = _csv(path / "toxicity/surge_toxicity_en.csv")
    yield from ((row["text"], 4 if row["is_toxic"] == "Toxic" else 0) for row in rows)


def _questions(path: Path) -> Texts:
    rows = json.loads((path / "toxicity/beavertails_test_3021.json").read_text())
    yield from ((row["text"], None) for row in rows)


def _zip(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".txt"):
                yield archive.read(name).decode("utf-8", "replace")


def _chunks(text: str) -> Iterator[str]:
    yield from (text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK))


SOURCES: dict[str, Callable[[Path], Texts]] = {
    "common crawl": _crawl,
    "web articles": _articles,
    "news": _news,
    "wikipedia": _wiki,
    "reviews": _reviews,
    "speeches": _speeches,
    "plays": _plays,
    "toxic prompts": _prompts("rtp_toxic_scored.jsonl"),
    "other prompts": _prompts("rtp_nontoxic_scored.jsonl"),
    "tweets": _tweets,
    "forum posts": _posts,
    "comments": _comments,
    "questions": _questions,
}
"""The first seven are typical texts of a crawl; the others have a larger share of harmful texts."""
