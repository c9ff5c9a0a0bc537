"""Pages become documents with every compression, charset and content type."""

from __future__ import annotations

import gzip
import random
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from archive_writer import HTML, Archive, page

from safety_ray.ingest.charset import to_text
from safety_ray.ingest.codings import unwrap
from safety_ray.ingest.html import EXTRACTIONS, extract
from safety_ray.ingest.payload import kind, language
from safety_ray.ingest.raw_record import RawRecord
from safety_ray.ingest.readers import read

TEXT = page(1)


def documents(folder: Path, archive: Archive, name: str = "a.warc.gz", **settings: Any) -> list[RawRecord]:
    (folder / name).write_bytes(archive.data)
    return list(read(str(folder / name), 1_000_000, **settings))


def chunked(body: bytes) -> bytes:
    chunks = [body[i : i + 700] for i in range(0, len(body), 700)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


CODINGS: dict[str, tuple[str, str, bytes]] = {
    "none": ("", "", TEXT.encode()),
    "chunked": ("chunked", "", chunked(TEXT.encode())),
    "gzip": ("", "gzip", gzip.compress(TEXT.encode())),
    "x-gzip": ("", "x-gzip", gzip.compress(TEXT.encode())),
    "deflate": ("", "deflate", zlib.compress(TEXT.encode())),
    "deflate without a header": ("", "Deflate", raw_deflate(TEXT.encode())),
    "brotli": ("", "br", brotli.compress(TEXT.encode())),
    "zstd": ("", "zstd", zstandard.compress(TEXT.encode())),
    "chunked gzip": ("chunked", "gzip", chunked(gzip.compress(TEXT.encode()))),
    "twice": ("", "gzip, br", brotli.compress(gzip.compress(TEXT.encode()))),
    "decoded under its original headers": ("chunked", "gzip", TEXT.encode()),
    "declared brotli that is plain": ("", "br", TEXT.encode()),
    "a charset in Content-Encoding": ("", "UTF-8", TEXT.encode()),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_page_reader_decodes_transfer_and_content_encoding(tmp_path, coding) -> None:
    transfer, content, body = CODINGS[coding]
    http = (*HTML, *((("Transfer-Encoding", transfer),) if transfer else ()))
    http = (*http, *((("Content-Encoding", content),) if content else ()))
    (document,) = documents(tmp_path, Archive().response("http://example.com/1", body, http))
    assert document.problem is None
    assert document.value is not None
    assert document.value["text"] == extract(TEXT, "fast-recall").text


def test_unwrap_handles_invalid_oversized_and_truncated_body() -> None:
    with pytest.raises(ValueError, match="not encoded as Content-Encoding 'gzip' declares"):
        unwrap(b"\x1f\x8b\x08\0\0\0" + bytes(range(256)), "", "gzip", 1000)
    bomb = gzip.compress(bytes(50_000_000))
    assert len(unwrap(bomb, "", "gzip", 1000)[0]) <= 1001
    truncated = gzip.compress(TEXT.encode())[:-60]
    assert TEXT.encode().startswith(unwrap(truncated, "", "gzip", 100_000)[0][:500])


LONG = "".join(page(n) for n in range(40)).encode()  # of several blocks of zstd and brotli
RANDOM = random.Random(0).randbytes(300_000).hex().encode()
DAMAGED: dict[str, tuple[str, str, bytes, int]] = {
    # Transfer-Encoding, Content-Encoding, body, smallest number of bytes of the content
    "gzip with trailing zeros": ("", "gzip", gzip.compress(LONG) + bytes(100), len(LONG)),
    "gzip with trailing text": ("", "gzip", gzip.compress(LONG) + b"<!-- 7 ms -->", len(LONG)),
    "gzip with zeros as checksum": ("", "gzip", gzip.compress(LONG)[:-8] + bytes(8), len(LONG)),
    "gzip of two members": ("", "gzip", gzip.compress(LONG[:9000]) + gzip.compress(LONG[9000:]), len(LONG)),
    "truncated gzip": ("", "gzip", gzip.compress(RANDOM)[:200_000], 300_000),
    "truncated deflate": ("", "deflate", zlib.compress(RANDOM)[:200_000], 300_000),
    "truncated raw deflate": ("", "deflate", raw_deflate(RANDOM)[:200_000], 300_000),
    "truncated brotli": ("", "br", brotli.compress(RANDOM, quality=5)[:200_000], 300_000),
    "truncated zstd": ("", "zstd", zstandard.compress(RANDOM)[:200_000], 2 << 17),
    "zstd with trailing zeros": ("", "zstd", zstandard.compress(LONG) + bytes(9), len(LONG)),
    "truncated chunk": ("chunked", "", chunked(LONG)[:-900], len(LONG) - 2000),
    "truncated chunks of gzip": ("chunked", "gzip", chunked(gzip.compress(RANDOM))[:200_000], 300_000),
    "truncated first chunk of gzip": ("chunked", "gzip", b"fffff\r\n" + gzip.compress(RANDOM)[:9_000], 9_000),
    "chunks without an end": ("chunked", "", chunked(LONG).removesuffix(b"0\r\n\r\n"), len(LONG)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_unwrap_keeps_content_before_damage(damage) -> None:
    transfer, coding, body, least = DAMAGED[damage]
    content, problem = unwrap(body, transfer, coding, 1_000_000)
    assert problem is None
    assert len(content) >= least
    assert LONG.startswith(content) or RANDOM.startswith(content)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize(
    "text", [b"123\r\nlines that begin with a number\r\n", b"plain", LONG, b"!" * 40, b"\n\n"]
)
def test_unwrap_keeps_text_that_is_not_encoded(coding, text) -> None:
    assert unwrap(text, "", coding, 1_000_000) == (text, None)
    assert unwrap(text, "chunked", coding, 1_000_000) == (text, None)
    assert unwrap(text, "chunked", "", 1_000_000) == (text, None)


RUSSIAN = "река хлеб гора школа"
CHARSETS: dict[str, tuple[str, str, str, str]] = {
    # words, encoding, Content-Type header, head of the page
    "latin-1 in the header": ("crème brûlée façade", "latin-1", "text/html; charset=ISO-8859-1", ""),
    "latin-1 in the page": ("crème brûlée façade", "latin-1", "text/html", '<meta charset="iso-8859-1">'),
    "windows-1252 called latin-1": ("crème €uro “quoted”", "cp1252", "text/html; charset=latin1", ""),
    "utf-8, undeclared": ("crème 日本 река", "utf-8", "text/html", ""),
    "utf-8, declared latin-1 by the server": ("crème 日本", "utf-8", "text/html; charset=iso-8859-1", ""),
    "utf-8 with a byte order mark": ("crème 日本", "utf-8-sig", "text/html; charset=iso-8859-1", ""),
    "utf-16 with a byte order mark": ("crème 日本", "utf-16", "text/html", ""),
    "windows-1251 in the page": (
        RUSSIAN,
        "cp1251",
        "text/html",
        '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">',
    ),
    "windows-1251, undeclared": (RUSSIAN, "cp1251", "text/html", ""),
    "Shift JIS in the page": ("日本語 漢字", "shift_jis", "text/html", '<meta charset="Shift_JIS">'),
    "7-bit Japanese": ("日本語 漢字", "iso2022_jp", "text/html", '<meta charset="iso-2022-jp">'),
    "gb2312 with characters of gbk": ("镕 简体", "gbk", "text/html; charset=gb2312", ""),
    "an unknown charset": ("crème brûlée", "utf-8", "text/html; charset=nonsense", ""),
}


@pytest.mark.parametrize("charset", CHARSETS)
def test_page_reader_decodes_every_charset(tmp_path, charset) -> None:
    words, encoding, content_type, head = CHARSETS[charset]
    body = page(2, words, head)
    if charset == "windows-1251, undeclared":  # a guess needs more than a few words
        text = "На берегу реки стоит старая школа, и дети едят хлеб. " * 9
        body = f"<html><body><p>{text} {words}</p></body></html>"
    assert to_text(body.encode(encoding), content_type) == body
    archive = Archive().response(
        "http://example.com/2", body.encode(encoding), (("Content-Type", content_type),)
    )
    (document,) = documents(tmp_path, archive)
    assert document.value is not None
    assert all(word in document.value["text"] for word in words.split())


def test_page_reader_extracts_text_and_warc_metadata(tmp_path) -> None:
    archive = Archive().info(isPartOf="CC-MAIN-2024-22", operator="Somebody")
    archive.response("<http://example.com/1>", TEXT)
    archive.add("response", "http://example.com/2", page(2).encode(), HTML, warc={"WARC-Truncated": "length"})
    archive.add("resource", "file:///page.html", TEXT.encode(), content_type="text/html")
    ignored: Counter[str] = Counter()
    first, second, third = documents(tmp_path, archive, ignored=ignored)
    assert first.value is not None
    assert first.value["url"] == "http://example.com/1"
    assert first.value["title"] == "Page 1"
    assert first.value["language"] == "en"
    assert first.value["dump"] == "CC-MAIN-2024-22"
    assert first.value["date"].endswith("Z")
    assert first.value["id"].startswith("<urn:uuid:")
    assert "In paragraph 3 of page 1" in first.value["text"]
    for boilerplate in ("Home", "About us", "All rights reserved"):
        assert boilerplate not in first.value["text"]
    assert second.value is not None
    assert second.value["truncated"] == "length"
    assert third.value is not None
    assert third.value["text"] == first.value["text"]
    assert ignored == {"warcinfo": 1}


def test_page_reader_rejects_non_page_with_reason_and_offset(tmp_path) -> None:
    archive = Archive()
    archive.response("http://example.com/gone", page(1), status="404 Not Found")
    archive.response("http://example.com/moved", b"", (("Location", "/"),), status="301 Moved Permanently")
    archive.response("http://example.com/empty", b"")
    archive.response("http://example.com/blank", b" \n ")
    archive.response("http://example.com/i.png", b"\x89PNG", (("Content-Type", "image/png"),))
    archive.response("http://example.com/what", b"\0\1\2", ())
    archive.response("http://example.com/form", "<html><body><form><input></form></body></html>")
    archive.response("http://example.com/long", "<html><body><p>" + "word " * 300_000)
    records = documents(tmp_path, archive)
    assert {r.value["url"].rsplit("/")[-1]: r.problem for r in records if r.value} == {
        "gone": "HTTP status 404",
        "moved": "HTTP status 301",
        "empty": "empty body",
        "blank": "empty body",
        "i.png": "content type 'image/png' is neither HTML nor plain text",
        "what": "content type 'unknown' is neither HTML nor plain text",
        "form": "the page has no main text",
        "long": "the record is longer than max_bytes=1000000",
    }
    assert [record.position for record in records] == archive.offsets


def test_page_reader_counts_crawler_files_as_metadata(tmp_path) -> None:
    """wget ends an archive with such records, in angle brackets."""
    archive = Archive().response("http://example.com/1", TEXT)
    for name in ("MANIFEST.txt", "wget_arguments.txt", "wget.log"):
        uri = f"metadata://gnu.org/software/wget/warc/{name}"
        archive.add("resource", uri, b"--2026-01-01--  http://example.com/1", content_type="text/plain")
        archive.add("resource", f"<{uri}>", b"Saving to: 1", content_type="text/plain")
    archive.add("metadata", "http://example.com/1", b"fetchTimeMs: 5", content_type="application/warc-fields")
    archive.add("resource", "file:///metadata.txt", b"a text", content_type="text/plain")
    ignored: Counter[str] = Counter()
    urls = [r.value and r.value["url"] for r in documents(tmp_path, archive, ignored=ignored)]
    assert urls == ["http://example.com/1", "file:///metadata.txt"]
    assert ignored == {"metadata": 7}


def test_page_reader_keeps_plain_text_unchanged(tmp_path) -> None:
    text = "Line one.\n\n   <b>no markup</b> – line two\n"
    archive = Archive().response("http://example.com/a.txt", text, (("Content-Type", "text/plain"),))
    archive.response("http://example.com/b", page(3), ())  # HTML without a content type
    first, second = documents(tmp_path, archive)
    assert first.value is not None
    assert first.value["text"] == text
    assert second.value is not None
    assert second.value["title"] == "Page 3"


def test_wet_reader_returns_text_language_and_dump(tmp_path) -> None:
    archive = Archive().info(isPartOf="CC-MAIN-2024-22")
    for number, code in enumerate(("spa", "eng,deu", "cmn", "ast", "")):
        extra = {"WARC-Identified-Content-Language": code} if code else {}
        body = f"Texto número {number}\nsegunda línea".encode()
        url = f"http://example.com/{number}"
        archive.add("conversion", url, body, warc=extra, content_type="text/plain")
    records = documents(tmp_path, archive, "a.warc.wet.gz")
    values = [record.value for record in records if record.value]
    assert [value["text"] for value in values] == [f"Texto número {i}\nsegunda línea" for i in range(5)]
    assert [value.get("language") for value in values] == ["es", "en", "zh", "ast", None]
    assert {value["dump"] for value in values} == {"CC-MAIN-2024-22"}


def test_html_reader_reads_plain_and_gzip_files(tmp_path) -> None:
    head = '<link rel="canonical" href="http://example.com/canonical">'
    (tmp_path / "a.html").write_text(page(1, head=head))
    (tmp_path / "b.htm.gz").write_bytes(gzip.compress(page(2).encode()))
    (tmp_path / "c.html.gz").write_bytes(gzip.compress(page(3).encode())[:200])
    (first,), (second,), (third,) = (
        list(read(str(tmp_path / name), 1_000_000)) for name in ("a.html", "b.htm.gz", "c.html.gz")
    )
    assert first.value is not None
    assert first.value["url"] == "http://example.com/canonical"
    assert first.value["title"] == "Page 1"
    assert second.value is not None
    assert "page 2" in second.value["text"]
    assert third.value is not None
    assert third.problem is None
    assert third.value["text"].endswith(
        "In paragraph 0 of page 3 the mountain is described at some length, so"
    )
    assert third.value["truncated"] == "the file ends inside the gzip member that begins at byte 0"


@pytest.mark.parametrize("extraction", EXTRACTIONS)
def test_extract_finds_article_with_every_extraction(extraction) -> None:
    text = extract(TEXT, extraction).text
    assert all(f"In paragraph {k} of page 1" in text for k in range(6))
    assert "All rights reserved" not in text


def test_extract_tolerates_malformed_html() -> None:
    deep = "<html><body>" + "<div>" * 20_000 + "a text"
    pages = (TEXT, deep, "<html>", "\0\0\0", "<?xml version='1.0' encoding='latin-1'?><a/>", "<" * 5000, "{}")
    assert [_outcome(html) for html in pages] == ["text"] + ["none"] * 6


def _outcome(html: str) -> str:
    try:
        return "text" if extract(html, "fast-recall").text else "none"
    except ValueError:
        return "none"


def test_payload_normalises_language_and_detects_kind() -> None:
    tags = ("en-GB", "de_AT", "spa", "zh-Hant", "eng,fra", "x", "", None, "123", "ast")
    assert [language(tag) for tag in tags] == ["en", "de", "es", "zh", "en", None, None, None, None, "ast"]
    assert kind("TEXT/HTML; charset=x", b"") == kind("application/xhtml+xml", b"") == "html"
    assert kind("", b"  <!DOCTYPE html>") == "html"
    assert kind("text/plain", b"<html>") == "text"
    assert kind("application/pdf", b"<html>") is None
