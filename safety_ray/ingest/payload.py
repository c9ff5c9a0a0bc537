"""The kind and the language of the body of an HTTP response."""

from __future__ import annotations

from typing import Literal

from babel.core import get_global

_HTML = ("text/html", "application/xhtml+xml")
_UNSPECIFIC = ("", "application/octet-stream", "unk", "unknown/unknown")
_ALIASES = get_global("language_aliases")  # "spa" is "es"


def kind(content_type: str, body: bytes) -> Literal["html", "text"] | None:
    """Return the kind of a body by its declared type, or by its first bytes if the type is unspecific."""
    declared = content_type.split(";")[0].strip().lower()
    if declared in _HTML:
        return "html"
    if declared == "text/plain":
        return "text"
    if declared in _UNSPECIFIC:
        start = body[:1024].lstrip().lower()
        return "html" if start.startswith(b"<!doctype html") or b"<html" in start else None
    return None


def language(tag: str | None) -> str | None:
    """Return the ISO 639-1 code of a language tag (`en-US`, `spa`), or its three-letter code."""
    first = (tag or "").split(",")[0].strip().replace("_", "-").split("-")[0].lower()
    if not (first.isascii() and first.isalpha() and 2 <= len(first) <= 3):
        return None
    return str(_ALIASES.get(first, first)).split("_")[0]
