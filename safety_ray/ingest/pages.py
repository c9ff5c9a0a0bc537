"""Web pages to documents: from archives of a crawl, and from HTML files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

from safety_ray.ingest import payload
from safety_ray.ingest.archives import Record, records
from safety_ray.ingest.html import extract
from safety_ray.ingest.raw import Raw
from safety_ray.ingest.source import Source
from safety_ray.ingest.unpack import Unpacked


def read_archive(path: str, max_bytes: int, extraction: str, ignored: Counter[str]) -> Iterator[Raw]:
    """The documents of a WARC or WET file; records that hold none by their type are counted in `ignored`."""
    dump: str | None = None
    with Source(path) as source:
        for record in records(source, max_bytes, ignored):
            if record.type == "warcinfo":
                ignored[record.type] += 1
                dump = _info(record.body).get("ispartof", dump)
                if record.problem is None:
                    continue
            yield _document(path, record, dump, max_bytes, extraction)


def read_html(path: str, max_bytes: int, extraction: str) -> Iterator[Raw]:
    """The one document of an HTML file, plain or packed."""
    with Unpacked(Source(path)) as unpacked:
        body = io.BufferedReader(unpacked).read(max_bytes + 1)
        broken = unpacked.broken
    if broken is not None:
        yield Raw(path, 0, None, f"the archive breaks off: {broken.reason}")
    elif len(body) > max_bytes:
        yield Raw(path, 0, None, f"the page is longer than max_bytes={max_bytes}")
    else:
        value: dict[str, Any] = {}
        problem = _fill(value, body, "text/html", extraction)
        yield Raw(path, 0, value, problem)


def _document(path: str, record: Record, dump: str | None, max_bytes: int, extraction: str) -> Raw:
    headers, http = record.headers, record.http
    known = {
        "id": headers.get("warc-record-id"),
        "url": headers.get("warc-target-uri", "").strip("<>") or None,  # wget writes <http://...>
        "date": headers.get("warc-date"),
        "dump": dump,
        "language": payload.language(headers.get("warc-identified-content-language")),
        "truncated": headers.get("warc-truncated"),
        "member_offset": record.inner or None,
    }
    value: dict[str, Any] = {name: one for name, one in known.items() if one is not None}
    problem = record.problem or _read(value, record, max_bytes, extraction)
    if "language" not in value and (served := payload.language(http.get("content-language"))):
        value["language"] = served
    return Raw(path, record.offset, value or None, problem)


def _read(value: dict[str, Any], record: Record, max_bytes: int, extraction: str) -> str | None:
    """Add the record's text to `value`, or say why it has none."""
    http = record.http
    if record.status is not None and not 200 <= record.status < 300:
        return f"HTTP status {record.status}"
    try:
        body = payload.unwrap(
            record.body, http.get("transfer-encoding", ""), http.get("content-encoding", ""), max_bytes
        )
    except ValueError as error:
        return str(error)
    if not body.strip():
        return "empty body"
    if len(body) > max_bytes:
        return f"the unpacked body is longer than max_bytes={max_bytes}"
    declared = (http if record.status is not None else record.headers).get("content-type", "")
    named = record.headers.get("warc-identified-payload-type", declared)
    # What the crawler identified says what a body is; what the server declared, how it is encoded.
    kind = payload.kind(named, body)
    if kind is None:
        return f"content type '{named.split(';')[0].strip() or 'unknown'}' is neither HTML nor plain text"
    if kind == "text":
        value["text"] = payload.to_text(body, declared)
        return None
    return _fill(value, body, declared, extraction)


def _fill(value: dict[str, Any], body: bytes, content_type: str, extraction: str) -> str | None:
    """Add a page's text and what it says of itself to `value`, or say why it has none."""
    if not body.strip():
        return "empty body"
    try:
        page = extract(payload.to_text(body, content_type), extraction)
    except ValueError as error:
        return str(error)
    for name, one in (("title", page.title), ("language", page.language), ("url", page.url)):
        if one and name not in value:
            value[name] = one
    if not page.text.strip():
        return "the page has no main text"
    value["text"] = page.text
    return None


def _info(body: bytes) -> dict[str, str]:
    """The fields of a warcinfo record."""
    lines = (line.partition(":") for line in body.decode("utf-8", "replace").splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in lines}
