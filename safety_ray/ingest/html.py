"""Extract the main text of a web page with trafilatura."""

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

logging.getLogger("trafilatura").setLevel(
    logging.CRITICAL
)  # pages that it cannot read are rejected with a reason


@dataclass(frozen=True, slots=True)
class Page:
    """The main text of a page, and what the page declares about itself."""

    text: str
    """empty if the page has no main text"""
    title: str | None
    language: str | None
    """language that the page declares"""
    url: str | None
    """canonical address that the page declares"""


def extract(html: str, extraction: str) -> Page:
    """Extract main text, title, language and canonical address, without readers' comments.

    Raises ValueError if `html` is not HTML, or if a library fails to parse it.
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
    except Exception as error:  # among millions of pages some break any parser
        raise ValueError(f"the page cannot be parsed: {type(error).__name__}: {error}") from error
    return Page(text or "", title or None, language(declared), canonical or None)
