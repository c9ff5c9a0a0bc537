"""Read documents from archives of a crawl and from HTML files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

from safety_ray.core import filesystem
from safety_ray.core.worker_deaths import Alone, together
from safety_ray.ingest import payload
from safety_ray.ingest.archives import Record, read_records
from safety_ray.ingest.charset import to_text
from safety_ray.ingest.codings import unwrap
from safety_ray.ingest.html import extract
from safety_ray.ingest.raw_record import RawRecord
from safety_ray.ingest.resumable_file import ResumableFile
from safety_ray.ingest.unpack import Damage, UnpackedFile


def read_archive(
    path: str, max_bytes: int, extraction: str, ignored: Counter[str], alone: Alone = together
) -> Iterator[RawRecord]:
    """Read the documents of a WARC or WET file, and count records of other types in `ignored`.

    Each document is announced to `alone` before its text is extracted.
    """
    dump: str | None = None
    with ResumableFile(path) as file:
        for record in read_records(file, max_bytes, ignored):
            if record.type == "warcinfo":
                ignored[record.type] += 1
                dump = _parse_fields(record.body).get("ispartof", dump)
                if record.problem is None:
                    continue
            with alone(f"page {record.offset} {record.inner}") as reason:
                record.problem = record.problem or reason
                document = _document(path, record, dump, max_bytes, extraction)
            yield document


def read_html(path: str, max_bytes: int, extraction: str, alone: Alone = together) -> Iterator[RawRecord]:
    """Read the document of an HTML file, compressed or not. It is announced to `alone` before.

    Of a damaged file, the text before the damage is kept, unless only the checksum of a gzip member shows the
    damage, and its length is wrong too: the damage may be anywhere then.
    """
    value: dict[str, Any] = {}
    lost, damaged = 0, False
    with alone("page") as problem:
        if problem is None:
            with UnpackedFile(ResumableFile(path)) as unpacked:
                body = io.BufferedReader(unpacked).read(max_bytes + 1)
                damage = unpacked.damage
            trailer = b""
            if damage is not None and "incorrect data check" in damage.reason:
                trailer = _trailer(path)
                if not any(trailer[:4]):  # some programs write zeros instead of a checksum
                    damage = None
            damaged = any(trailer[:4])
            if damage is not None and damaged and int.from_bytes(trailer[4:], "little") != len(body):
                lost = filesystem.size(path)
                problem = f"the file is damaged: {damage.reason}, so parts of the text are wrong"
            else:
                lost = damage.lost if damage is not None else 0
                if damage is not None:
                    value["damaged" if damaged else "truncated"] = damage.reason
                problem = _problem_of_page(value, body, damage, max_bytes, extraction)
    yield RawRecord(path, 0, value, problem, lost=lost, damaged=damaged)


def _trailer(path: str) -> bytes:
    """Return the last 8 bytes of a file, which are the checksum and the length of a gzip member."""
    with ResumableFile(path) as file:
        file.seek(max(file.size() - 8, 0))
        return file.read(8) or b""


def _problem_of_page(
    value: dict[str, Any], body: bytes, damage: Damage | None, max_bytes: int, extraction: str
) -> str | None:
    """Add what `body` contains to `value`. Returns the reason why it is no document, or None."""
    if len(body) > max_bytes:
        return f"the page is longer than max_bytes={max_bytes}"
    try:
        problem = _fill(value, body, "text/html", extraction)
    except Exception as error:  # one page must not end the job
        problem = f"the page cannot be read: {type(error).__name__}: {error}"
    if problem and damage is not None:
        return f"the file is damaged: {damage.reason} (before that: {problem})"
    return problem


def _document(path: str, record: Record, dump: str | None, max_bytes: int, extraction: str) -> RawRecord:
    headers, http = record.headers, record.http
    fields = {
        "id": headers.get("warc-record-id"),
        "url": headers.get("warc-target-uri", "").strip("<>") or None,  # wget writes <http://...>
        "date": headers.get("warc-date"),
        "dump": dump,
        "language": payload.language(headers.get("warc-identified-content-language")),
        "truncated": headers.get("warc-truncated"),
        "member_offset": record.inner or None,
    }
    value: dict[str, Any] = {name: field for name, field in fields.items() if field is not None}
    try:
        problem = record.problem or _read(value, record, max_bytes, extraction)
    except Exception as error:  # one page must not end the job
        problem = f"the record cannot be read: {type(error).__name__}: {error}"
    if "language" not in value and (language := payload.language(http.get("content-language"))):
        value["language"] = language
    damaged = "damaged" in value
    return RawRecord(path, record.offset, value or None, problem, lost=record.lost, damaged=damaged)


def _read(value: dict[str, Any], record: Record, max_bytes: int, extraction: str) -> str | None:
    """Add the record's text to `value`. Returns the reason if it has none."""
    http = record.http
    if record.status is not None and not 200 <= record.status < 300:
        return f"HTTP status {record.status}"
    try:
        body, damage = unwrap(
            record.body, http.get("transfer-encoding", ""), http.get("content-encoding", ""), max_bytes
        )
    except ValueError as error:
        return str(error)
    if damage is not None:
        value["damaged"] = damage
    if not body.strip():
        return "empty body"
    if len(body) > max_bytes:
        return f"the decoded body is longer than max_bytes={max_bytes}"
    declared = (http if record.status is not None else record.headers).get("content-type", "")
    # The type that the crawler identified is more reliable; only the server declares the charset.
    identified = record.headers.get("warc-identified-payload-type", declared)
    kind = payload.kind(identified, body)
    if kind is None:
        return (
            f"content type '{identified.split(';')[0].strip() or 'unknown'}' is neither HTML nor plain text"
        )
    if kind == "text":
        value["text"] = to_text(body, declared)
        return None
    return _fill(value, body, declared, extraction)


def _fill(value: dict[str, Any], body: bytes, content_type: str, extraction: str) -> str | None:
    """Add a page's text and its own declarations to `value`. Returns the reason if it has no text."""
    if not body.strip():
        return "empty body"
    try:
        page = extract(to_text(body, content_type), extraction)
    except ValueError as error:
        return str(error)
    for name, field in (("title", page.title), ("language", page.language), ("url", page.url)):
        if field and name not in value:
            value[name] = field
    if not page.text.strip():
        return "the page has no main text"
    value["text"] = page.text
    return None


def _parse_fields(body: bytes) -> dict[str, str]:
    """Return the fields of a warcinfo record."""
    lines = (line.partition(":") for line in body.decode("utf-8", "replace").splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in lines}
