"""Heads of stored HTTP responses, regular and irregular."""

from __future__ import annotations

from pathlib import Path

import pytest

from safety_ray.ingest.http_head import split
from safety_ray.ingest.readers import read

PAGE = (
    "<html><body><article><p>"
    + "The soup is described at some length. " * 20
    + "</p></article></body></html>"
)
TYPE = b"Content-Type: text/html"
HEADS = {
    "HTTP/1.1": b"HTTP/1.1 200 OK\r\n" + TYPE + b"\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\n" + TYPE + b"\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\n" + TYPE + b"\n\n",
    "CR LF, then LF": b"HTTP/1.1 200 OK\r\n" + TYPE + b"\r\n\n",
    "lower case": b"http/1.1 200 ok\r\n" + TYPE.lower() + b"\r\n\r\n",
    "ICY": b"ICY 200 OK\r\n" + TYPE + b"\r\n\r\n",
    "100 Continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + TYPE + b"\r\n\r\n",
    "103 Early Hints": b"HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 200 OK\n" + TYPE + b"\n\n",
    "CR": b"HTTP/1.1 200 OK\rServer: a\r" + TYPE + b"\r\r",
    "CR, then CR LF": b"HTTP/1.1 200 OK\r" + TYPE + b"\r\n\r\n",
    "CR CR LF": b"HTTP/1.1 200 OK\r\r\n" + TYPE + b"\r\r\n\r\r\n",
    "100 Continue with CR": b"HTTP/1.1 100 Continue\r\rHTTP/1.1 200 OK\r" + TYPE + b"\r\r",
    "byte order mark": b"\xef\xbb\xbfHTTP/1.1 200 OK\r\n" + TYPE + b"\r\n\r\n",
    "byte order mark and CR": b"\xef\xbb\xbf\rHTTP/1.1 200 OK\r" + TYPE + b"\r\r",
    "empty lines first": b"\r\n\r\nHTTP/1.0 200 OK\r\n" + TYPE + b"\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS)
def test_warc_reader_reads_irregular_head(tmp_path: Path, head: str) -> None:
    response = HEADS[head] + PAGE.encode()
    warc = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example.com\r\n"
        b"Content-Type: application/http; msgtype=response\r\n"
        b"Content-Length: %d\r\n\r\n%s\r\n\r\n" % (len(response), response)
    )
    (tmp_path / "a.warc").write_bytes(warc)
    (document,) = read(str(tmp_path / "a.warc"), 1_000_000)
    assert document.problem is None
    assert document.value is not None
    assert document.value["text"].startswith("The soup is described")


def test_split_returns_status_headers_and_body() -> None:
    lines = [
        b"HTTP/1.1 404 No",
        b"X-A: 1: 2",
        b"Long: a",
        b"\tb",
        b"Name: caf\xe9",
        b"x-a: last",
        b"none",
        b"",
        b"",
    ]
    head = b"\r\n".join(lines)
    headers = {"x-a": "last", "long": "a b", "name": "café"}
    assert split(head + b"body\r\n\r\n") == (404, headers, b"body\r\n\r\n")
    assert split(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 500") == (200, {}, b"HTTP/1.1 500")
    assert split(b"HTTP/1.1 200 OK\r\nA: b") == (200, {"a": "b"}, b"")
    assert split(b"HTTP/1.1 100 Continue\r\n\r\n") == (100, {}, b"")
    assert split(b"HTTP/1.1 200 OK\rA: b\r c\rD: e\r\rone\r\rtwo") == (
        200,
        {"a": "b c", "d": "e"},
        b"one\r\rtwo",
    )
    assert split(b"HTTP/1.1 200 OK\r\nA: b\r\rC: d\r\n\r\nbody") == (200, {"a": "b", "c": "d"}, b"body")
    assert split(b"\xef\xbb\xbfHTTP/1.1 200 OK\n\n\xef\xbb\xbfbody") == (200, {}, b"\xef\xbb\xbfbody")


@pytest.mark.parametrize(
    "response", [b"", b"\xef\xbb\xbf", b"<html>", b"HTTP/1.1 OK", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_split_rejects_response_without_status(response: bytes) -> None:
    with pytest.raises(ValueError, match="it begins with"):
        split(response)
