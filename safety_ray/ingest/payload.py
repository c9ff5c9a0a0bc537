"""The kind, the charset and the language of the body of an HTTP response."""

from __future__ import annotations

from typing import Literal

from babel.core import get_global
from trafilatura.utils import detect_encoding
from w3lib.encoding import (
    html_body_declared_encoding,
    http_content_type_encoding,
    read_bom,
    to_unicode,
)

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


def to_text(body: bytes, content_type: str = "") -> str:
    """Decode a page: byte order mark, valid UTF-8, the header's charset, the page's, then a guess.

    UTF-8 precedes the declared charset because other text is hardly ever valid UTF-8 by chance, while many
    servers declare their default charset for everything. Encodings of 7 bits are valid UTF-8, so their
    declaration precedes. Undecodable bytes become U+FFFD.
    """
    encoding, mark = read_bom(body)
    if encoding is not None and mark is not None:
        return to_unicode(body[len(mark) :], encoding)
    declared = http_content_type_encoding(content_type) or html_body_declared_encoding(body)
    if declared and declared.startswith(("iso2022", "hz")):
        return to_unicode(body, declared)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start >= len(body) - 3:  # truncated inside a character
            return body.decode("utf-8", "replace")
    if declared is None:
        declared = next(iter(detect_encoding(body)), "cp1252")
    try:
        return to_unicode(body, declared)
    except (LookupError, ValueError):  # some of Python's codecs are not charsets: base64, undefined, ...
        return body.decode("utf-8", "replace")


def language(tag: str | None) -> str | None:
    """Return the ISO 639-1 code of a language tag (`en-US`, `spa`), or its three-letter code."""
    first = (tag or "").split(",")[0].strip().replace("_", "-").split("-")[0].lower()
    if not (first.isascii() and first.isalpha() and 2 <= len(first) <= 3):
        return None
    return str(_ALIASES.get(first, first)).split("_")[0]
