"""Write WARC and WET files for the tests with warcio, which is not the library that reads them."""

from __future__ import annotations

import gzip
import io
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

HTML = (("Content-Type", "text/html; charset=utf-8"),)
Headers = tuple[tuple[str, str], ...]


def page(number: int, words: str = "soup bread river mountain", head: str = "") -> str:
    """Return a page with an article, a menu and a footer; `words` is the vocabulary of the article."""
    vocabulary = words.split()
    lines = [
        f"In paragraph {k} of page {number} the {vocabulary[(number + k) % len(vocabulary)]} is described "
        f"at some length, so that readers know what a {vocabulary[k % len(vocabulary)]} looks like, and why."
        for k in range(6)
    ]
    article = "".join(f"<p>{line}</p>" for line in lines)
    return (
        f"<!DOCTYPE html><html lang='en-GB'><head>{head}<title>Page {number} | A site</title></head><body>"
        f"<nav><a href='/'>Home</a> <a href='/about'>About us</a></nav><article><h1>Page {number}</h1>"
        f"{article}</article><footer>All rights reserved</footer></body></html>"
    )


class Archive:
    """An archive in memory: `data` is the file, `offsets` are the positions of its records."""

    def __init__(self, packed: bool = True) -> None:
        self.file = io.BytesIO()
        self.writer = WARCWriter(self.file, gzip=packed)
        self.offsets: list[int] = []

    @property
    def data(self) -> bytes:
        return self.file.getvalue()

    def add(
        self,
        kind: str,
        url: str,
        body: bytes,
        http: Headers | None = None,
        status: str = "200 OK",
        warc: dict[str, str] | None = None,
        content_type: str = "",
    ) -> Archive:
        head = None if http is None else StatusAndHeaders(status, list(http), protocol="HTTP/1.1")
        if kind == "request":
            head = StatusAndHeaders("GET / HTTP/1.1", list(http or ()), is_http_request=True)
        self.offsets.append(self.file.tell())
        record = self.writer.create_warc_record(
            url,
            kind,
            payload=io.BytesIO(body),
            http_headers=head,
            # Without these, warcio takes random bits and the time, so no two archives are equal.
            warc_headers_dict={
                "WARC-Record-ID": f"<urn:uuid:{uuid5(NAMESPACE_URL, f'{len(self.offsets)} {url}')}>",
                "WARC-Date": "2026-01-01T00:00:00Z",
                **(warc or {}),
            },
            warc_content_type=content_type,
        )
        self.writer.write_record(record)
        return self

    def response(self, url: str, body: bytes | str, http: Headers = HTML, status: str = "200 OK") -> Archive:
        return self.add("response", url, body if isinstance(body, bytes) else body.encode(), http, status)

    def info(self, **fields: Any) -> Archive:
        self.offsets.append(self.file.tell())
        self.writer.write_record(self.writer.create_warcinfo_record("made.warc.gz", fields))
        return self


def pages(count: int, packed: bool = True) -> Archive:
    archive = Archive(packed)
    for number in range(count):
        archive.response(f"http://example.com/{number}", page(number))
    return archive


def split(plain: bytes, offsets: list[int]) -> list[bytes]:
    return [plain[start:end] for start, end in zip(offsets, [*offsets[1:], len(plain)], strict=True)]


def gzip_each(records: list[bytes]) -> bytes:
    return b"".join(gzip.compress(record) for record in records)
