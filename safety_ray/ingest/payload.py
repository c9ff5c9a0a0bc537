"""Decode the body of an HTTP response: encodings, content type and charset."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any, Literal

from babel.core import get_global
from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader
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


def _inflate(body: bytes) -> Any:
    # Servers send deflate with and without zlib's header.
    for bits in (15, -15):
        try:
            return io.BytesIO(zlib.decompressobj(bits).decompress(body))
        except zlib.error:
            continue
    raise OSError("not a deflate stream")


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "gzip": lambda body: GzipReader(io.BytesIO(body)),
    "x-gzip": lambda body: GzipReader(io.BytesIO(body)),
    "deflate": _inflate,
    "br": lambda body: BrotliReader(io.BytesIO(body)),
    "zstd": lambda body: ZstdReader(io.BytesIO(body)),
}


def unwrap(body: bytes, transfer: str, content: str, max_bytes: int) -> bytes:
    """Decode Transfer-Encoding and Content-Encoding (the headers' values), up to `max_bytes` + 1 bytes.

    Crawlers often store a decoded body under its original headers, so a text body that is not encoded as its
    header declares is returned unchanged. Raises ValueError if the body is neither text nor decodable.
    """
    if "chunked" in transfer.lower():
        body = _try(lambda: ChunkedReader(io.BytesIO(body)).read(), body)
    for name in reversed([encoding.strip().lower() for encoding in content.split(",")]):
        if name not in _DECODERS:
            continue  # "identity", and charsets that servers send in this header
        decode = _DECODERS[name]
        encoded, body = body, _try(lambda: decode(body).read(max_bytes + 1), b"")  # noqa: B023
        if encoded and not body:
            if b"\0" in encoded[:1024] or not encoded.lstrip()[:1].isascii():
                raise ValueError(f"the body is not encoded as Content-Encoding '{name}' declares")
            body = encoded
    return body


def _try(read: Callable[[], Any], default: bytes) -> bytes:
    try:
        return bytes(read())
    except OSError:
        return default


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
