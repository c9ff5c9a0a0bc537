"""Damage that only a checksum shows: a page is marked and counted, or rejected if its length is wrong too."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from archive_writer import HTML, Archive, page

from jobs.ingest import IngestConfig, read_tables
from safety_ray.ingest import finished_files, readers
from safety_ray.ingest.codings import unwrap
from safety_ray.ingest.documents import row_schema

PAGE = "".join(page(n) for n in range(8)).encode()
RANDOM = random.Random(0).randbytes(200_000).hex().encode()
MARKED, REJECTED = "the checksum is wrong in the body's trailer", "checksum and length are wrong"


def wrong_letter() -> bytes:
    """Return a gzip file in which one letter is wrong: it is stored, not compressed."""
    data = gzip.compress(PAGE, 0)
    place = data.index(b"at some length")
    return data[:place] + b"X" + data[place + 1 :]


def wrong_codes() -> bytes:
    """Return a gzip file with one wrong bit, whose codes are valid and give content of another length."""
    data = gzip.compress(PAGE)
    for place in range(len(data) // 2, len(data) - 8):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        try:
            content = zlib.decompressobj(-15)
            length = len(content.decompress(changed[10:]))
        except zlib.error:
            continue
        if content.eof and length != len(PAGE):
            return changed
    raise AssertionError("no such bit")


def responses(path: Path, *bodies: bytes) -> Path:
    archive = Archive()
    for number, body in enumerate(bodies):
        archive.response(f"http://example.com/{number}", body, (*HTML, ("Content-Encoding", "gzip")))
    path.write_bytes(archive.data)
    return path


def test_unwrap_reports_wrong_checksum() -> None:
    content, problem = unwrap(wrong_letter(), "", "gzip", 10**6)
    assert problem == MARKED
    assert len(content) == len(PAGE)
    assert sum(a != b for a, b in zip(content, PAGE, strict=True)) == 1
    with pytest.raises(ValueError, match=REJECTED):
        unwrap(wrong_codes(), "", "gzip", 10**6)


@pytest.mark.parametrize("coding", ["deflate", "zstd", "gzip of two members"])
def test_unwrap_reports_wrong_checksum_of_other_codings(coding: str) -> None:
    data = {
        "deflate": zlib.compress(PAGE)[:-2] + b"\1\2",
        "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(RANDOM)[:-2] + b"\1\2",
        "gzip of two members": gzip.compress(PAGE) + wrong_letter(),
    }
    content, problem = unwrap(data[coding], "", coding.split()[0], 10**6)
    assert problem == MARKED
    assert len(content) > 1000
    assert coding != "gzip of two members" or content.startswith(PAGE + PAGE[:100])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_unwrap_keeps_and_reports_what_precedes_invalid_code(coding: str) -> None:
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    data = packer.compress(PAGE) + packer.flush(zlib.Z_FULL_FLUSH) + b"\x07" * 500
    content, problem = unwrap(data, "", coding, 10**6)
    assert content == PAGE
    assert problem == "the body is damaged (Error -3 while decompressing data: invalid block type)"


@pytest.mark.parametrize("cut", [0, 1, 4, 8])
@pytest.mark.parametrize("zeros", [0, 8, 100])
def test_unwrap_accepts_absent_trailer(cut: int, zeros: int) -> None:
    data = gzip.compress(PAGE)
    if cut in (1, 4) and zeros:
        pytest.skip("a part of a checksum followed by zeros is a wrong checksum")
    assert unwrap(data[: len(data) - cut] + bytes(zeros), "", "gzip", 10**6) == (PAGE, None)


def test_ingest_counts_and_marks_damaged_pages(tmp_path: Path) -> None:
    path = responses(tmp_path / "a.warc.gz", gzip.compress(PAGE), wrong_letter(), wrong_codes())
    config = IngestConfig(input=str(path), output=str(tmp_path / "out"))
    tables = list(read_tables(str(path), config, row_schema([]), str(tmp_path / "counts")))
    good, marked, rejected = pa.concat_tables(tables).to_pylist()
    assert good["text"]
    assert "damaged" not in json.loads(good["extra"])
    assert len(marked["text"]) == len(good["text"])
    assert json.loads(marked["extra"])["damaged"] == MARKED
    assert rejected["text"] is None
    assert REJECTED in rejected["rejected_reason"]
    reports = finished_files.read_reports(str(tmp_path / "counts"))
    assert finished_files.sum_counts(reports, "damaged") == {"pages": 1}


def test_html_file_with_wrong_checksum_is_marked_or_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.html.gz"
    path.write_bytes(wrong_letter())
    (raw,) = readers.read(str(path), 10**6)
    assert raw.problem is None
    assert raw.damaged
    assert raw.value is not None
    assert "incorrect data check" in raw.value["damaged"]
    path.write_bytes(wrong_codes())
    (raw,) = readers.read(str(path), 10**6)
    assert str(raw.problem).endswith("so parts of the text are wrong")
    assert raw.lost == len(wrong_codes())
    for length in (bytes(4), gzip.compress(PAGE)[-4:]):
        path.write_bytes(gzip.compress(PAGE)[:-8] + bytes(4) + length)
        (raw,) = readers.read(str(path), 10**6)
        assert (raw.problem, raw.damaged, raw.lost) == (None, False, 0)
        assert raw.value is not None
        assert not {"damaged", "truncated"} & raw.value.keys()
        assert unwrap(path.read_bytes(), "", "gzip", 10**6) == (PAGE, None)


@pytest.mark.parametrize("after", [0, 6])
def test_archive_record_with_wrong_checksum_is_rejected(tmp_path: Path, after: int) -> None:
    """Programs that write archives write checksums, so the record is not what was stored.

    With six bytes after the first block that is read, the record is complete before its checksum is read.
    """
    archive = Archive()
    for number in range(3):
        archive.response(f"http://example.com/{number}", page(number).encode(), HTML)
    first, second, third = (
        archive.data[start:end] for start, end in pairwise([*archive.offsets, len(archive.data)])
    )
    member = zlib.decompress(second, 31).replace(b"at some length", b"at same length", 1)
    damaged = gzip.compress(member)[:-8] + second[-8:]
    name = b"x" * ((1 << 16) + after - len(first) - len(damaged) - 1) + b"\0"
    named = first[:3] + bytes([first[3] | 8]) + first[4:10] + name + first[10:]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(named + damaged + third)
    one, *others, three = readers.read(str(path), 10**6)
    assert (one.problem, three.problem) == (None, None)
    assert len(others) == (2 if after else 1), "the record, if it could be read, and the damage"
    assert all("incorrect data check" in str(raw.problem) for raw in others)
