"""The main text of a web page, by trafilatura."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import trafilatura
from trafilatura.metadata import extract_title
from trafilatura.utils import load_html

from safety_ray.ingest.payload import language

Extraction = Literal["fast-recall", "fast", "balanced", "precision", "recall"]
EXTRACTIONS: dict[str, dict[str, Any]] = {
    "fast-recall": {"fast": True, "favor_recall": True},
    "fast": {"fast": True},
    "balanced": {},
    "precision": {"favor_precision": True},
    "recall": {"favor_recall": True},
}
"""Options of trafilatura by name; benchmarks/ingest.py compares them on pages with gold text."""

logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it gives up on is rejected with a reason


@dataclass(frozen=True, slots=True)
class Page:
    text: str
    """empty where no main text was found"""
    title: str | None
    language: str | None
    """what the page declares"""
    url: str | None
    """what the page names as its canonical address"""


def extract(html: str, extraction: str) -> Page:
    """Main text and what the page says of itself, without readers' comments.

    Raises ValueError where `html` is no HTML, or the libraries below fail on it.
    """
    try:
        tree = load_html(html)
        if tree is None:
            raise ValueError("the page is not HTML")
        title = extract_title(tree)
        canonical = tree.xpath("string(.//link[@rel='canonical'][1]/@href)").strip()
        declared = tree.get("lang") or tree.get("{http://www.w3.org/XML/1998/namespace}lang")
        text = trafilatura.extract(tree, include_comments=False, **EXTRACTIONS[extraction])
    except ValueError:
        raise
    except Exception as error:  # of hundreds of millions of pages some break any parser
        raise ValueError(f"the page cannot be parsed: {type(error).__name__}: {error}") from error
    return Page(text or "", title or None, language(declared), canonical or None)
