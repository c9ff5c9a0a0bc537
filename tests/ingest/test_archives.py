"""Records of archives: complete ones are read, damaged ones are reported with their offset."""

from __future__ import annotations

import gzip
import io
import re
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from archive_writer import Archive, gzip_each, page, pages, split
from fastwarc.warc import ArchiveIterator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from safety_ray.ingest.archives import READ, Record, read_records
from safety_ray.ingest.resumable_file import ResumableFile

COUNT = 12
PLAIN = pages(COUNT, packed=False)
RECORDS = split(PLAIN.data, PLAIN.offsets)


def read(folder: Path, data: bytes, max_bytes: int = 1_000_000) -> tuple[list[Record], list[Record]]:
    """Return the complete records of a file, and the others."""
    (folder / "a.warc").write_bytes(data)
    with ResumableFile(str(folder / "a.warc")) as file:
        records = list(read_records(file, max_bytes, Counter()))
    complete = [record for record in records if record.problem is None]
    return complete, [record for record in records if record.problem is not None]


def urls(records: list[Record]) -> list[str]:
    return [record.headers["warc-target-uri"] for record in records]


def url(number: int) -> str:
    return f"http://example.com/{number}"


def with_dictionary(records: list[bytes]) -> bytes:
    """Compress as some crawlers do: a dictionary in a skippable frame, then a frame for each record."""
    samples = [page(i).encode() for i in range(200)]
    dictionary = zstandard.train_dictionary(4096, samples).as_bytes()
    packer = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
    head = b"\x5d\x2a\x4d\x18" + len(dictionary).to_bytes(4, "little") + dictionary
    return head + b"".join(packer.compress(record) for record in records)


PACKINGS = {
    "plain": b"".join(RECORDS),
    "a gzip member each": gzip_each(RECORDS),
    "one gzip member": gzip.compress(PLAIN.data),
    "gzip members that cut records": gzip_each(
        [PLAIN.data[i : i + 999] for i in range(0, len(PLAIN.data), 999)]
    ),
    "gzip, then zeros": gzip_each(RECORDS) + b"\0" * 500,
    "a Zstandard frame each": b"".join(map(zstandard.compress, RECORDS)),
    "one Zstandard frame": zstandard.compress(PLAIN.data),
    "Zstandard with a dictionary": with_dictionary(RECORDS),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_warc_records_match_fastwarc_for_every_compression(tmp_path, packing) -> None:
    complete, broken = read(tmp_path, PACKINGS[packing])
    data = PLAIN.data if "zeros" in packing else PACKINGS[packing]  # FastWARC reports zeros as damage
    expected = [
        (record.headers["WARC-Target-URI"], record.reader.read())
        for record in ArchiveIterator(io.BytesIO(data))
    ]
    assert [(record.headers["warc-target-uri"], record.body) for record in complete] == expected
    assert len(complete) == COUNT
    assert broken == []


def test_warc_records_offsets_locate_each_record(tmp_path) -> None:
    packed = pages(COUNT)
    for data, offsets in ((packed.data, packed.offsets), (PLAIN.data, PLAIN.offsets)):
        complete, _ = read(tmp_path, data)
        assert [record.offset for record in complete] == offsets
        assert {record.inner for record in complete} == {0}
        for record in complete:
            other = next(iter(WarcioIterator(io.BytesIO(data[record.offset :]))))
            assert other.rec_headers.get_header("WARC-Record-ID") == record.headers["warc-record-id"]
            assert other.raw_stream.read() == record.body
    complete, _ = read(tmp_path, PACKINGS["one gzip member"])
    assert [record.offset for record in complete] == [0] * COUNT
    assert [record.inner for record in complete] == PLAIN.offsets


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_warc_records_keep_records_before_truncation(tmp_path, packed) -> None:
    archive = pages(5, packed)
    ends = [*archive.offsets[1:], len(archive.data)]
    lengths = sorted({*range(archive.offsets[2], ends[2], 37), *ends, *(end - 5 for end in ends)})
    for length in lengths:
        complete, broken = read(tmp_path, archive.data[:length])
        before = sum(end <= length for end in ends)
        if length in ends:
            assert urls(complete) == [url(i) for i in range(before)]
            assert broken == []
            continue
        begin = archive.offsets[before]
        # A record without its checksum or last line ends (four bytes) may have all of its text.
        rest, whole = (archive.data[begin:end] for end in (length, ends[before]))
        if packed:
            rest, whole = (zlib.decompressobj(31).decompress(data) for data in (rest, whole))
        assert urls(complete) == [url(i) for i in range(before + (len(rest) >= len(whole) - 4))]
        if packed or len(complete) == before:
            assert broken
            assert {record.offset for record in broken} <= {begin, begin - 4}
            assert re.search("damaged|truncated|no WARC record", broken[-1].problem)


def test_warc_records_lose_one_record_per_damaged_gzip_member(tmp_path) -> None:
    archive = pages(6)
    begin, end = archive.offsets[3], archive.offsets[4]
    damaged = 0
    for position in range(begin, end, 11):
        data = bytearray(archive.data)
        data[position] ^= 0xFF
        complete, broken = read(tmp_path, bytes(data))
        others = [url(i) for i in range(6) if i != 3]
        assert [found for found in urls(complete) if found != url(3)] == others
        if url(3) not in urls(complete):
            damaged += 1
            assert {record.offset for record in broken} == {begin}
            assert f"gzip member that begins at byte {begin:,} is damaged" in broken[-1].problem
    assert damaged > 20


def test_warc_records_read_data_appended_after_truncation(tmp_path) -> None:
    archive = pages(6)
    half = archive.data[: archive.offsets[3] + 150]
    complete, broken = read(tmp_path, half + archive.data[archive.offsets[3] :])
    assert urls(complete) == [url(i) for i in range(6)]
    assert [record.offset for record in broken if not record.type] == [archive.offsets[3]]


WRONG = {
    "too short": (lambda n: str(n - 300), "is longer than"),
    "a little too short": (lambda n: str(n - 1), "is longer than"),
    "too long": (lambda n: str(n + 300), "is longer than|is truncated"),
    "longer than the file": (lambda n: str(n + 10**9), "is truncated|longer than max_bytes"),
    "negative": (lambda n: "-5", "not a number but '-5'"),
    "a word": (lambda n: "many", "not a number but 'many'"),
}


@pytest.mark.parametrize("packing", ["plain", "a gzip member each", "one gzip member"])
@pytest.mark.parametrize("wrong", WRONG)
def test_warc_records_reject_record_with_wrong_content_length(tmp_path, wrong, packing) -> None:
    change, reason = WRONG[wrong]
    changed = list(RECORDS)
    length = re.compile(rb"(?<=Content-Length: )\d+")
    changed[4] = length.sub(lambda m: change(int(m[0])).encode(), changed[4], count=1)
    joined = b"".join(changed)
    data = {"plain": joined, "a gzip member each": gzip_each(changed)}.get(packing, gzip.compress(joined))
    complete, broken = read(tmp_path, data)
    assert urls(complete) == [url(i) for i in range(COUNT) if i != 4]
    (record,) = broken
    assert record.headers["warc-target-uri"] == url(4)
    assert re.search(reason, record.problem)
    offset = len(gzip_each(changed[:4])) if packing == "a gzip member each" else PLAIN.offsets[4]
    assert record.offset + record.inner == offset


def test_warc_records_report_and_skip_junk(tmp_path) -> None:
    junk = b"<html>no record</html>\r\n\r\n"
    for sequence in ([*RECORDS[:3], junk, *RECORDS[3:]], [junk, *RECORDS]):
        complete, broken = read(tmp_path, b"".join(sequence))
        assert len(complete) == COUNT
        (record,) = broken
        assert record.problem.startswith("no WARC record begins here")
    complete, broken = read(tmp_path, b"no archive at all\n" * 10_000)
    assert (len(complete), len(broken)) == (0, 1)
    assert read(tmp_path, b"") == ([], [])


def test_warc_records_skip_oversized_record_in_bounded_memory(tmp_path) -> None:
    limit = 500_000
    for packed in (True, False):
        archive = Archive(packed)
        archive.response(url(0), page(0)).response(url(1), bytes(20_000_000)).response(url(2), page(2))
        (tmp_path / "a.warc").write_bytes(archive.data)
        del archive
        tracemalloc.start()
        with ResumableFile(str(tmp_path / "a.warc")) as file:
            records = list(read_records(file, limit, Counter()))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert urls(records) == [url(0), url(1), url(2)]
        too_long = f"the record is longer than max_bytes={limit}"
        assert [record.problem for record in records] == [None, too_long, None]
        assert peak < 6_000_000


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    packing=st.sampled_from(sorted(PACKINGS)),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 400), st.binary(max_size=40)), max_size=4),
)
def test_warc_records_tolerate_random_corruption(tmp_path, packing, edits) -> None:
    data = PACKINGS[packing]
    for share, removed, inserted in edits:
        position = int(share * len(data))
        data = data[:position] + inserted + data[position + removed :]
    complete, broken = read(tmp_path, data)
    assert all(0 <= record.offset <= len(data) for record in complete + broken)
    if data == PACKINGS[packing]:
        assert (len(complete), len(broken)) == (COUNT, 0)


def test_warc_records_count_ignored_record_types(tmp_path) -> None:
    archive = Archive().info(isPartOf="CC-MAIN-2024-22")
    archive.add("request", url(0), b"", (("Host", "example.com"),)).response(url(0), page(0))
    archive.add("metadata", url(0), b"a: b", content_type="application/warc-fields")
    archive.add("revisit", url(1), b"", (("Content-Type", "text/html"),))
    (tmp_path / "a.warc.gz").write_bytes(archive.data)
    ignored: Counter[str] = Counter()
    with ResumableFile(str(tmp_path / "a.warc.gz")) as file:
        types = [record.type for record in read_records(file, 1_000_000, ignored)]
    assert types == ["warcinfo", "response"]
    assert ignored == {"request": 1, "metadata": 1, "revisit": 1}


@pytest.mark.parametrize("name", ["whirlwind.warc.gz", "whirlwind.warc.wet.gz", "sample-0000.warc.gz"])
def test_warc_records_match_warcio_on_real_archives(real_data, name) -> None:
    path = real_data / "web" / name
    with ResumableFile(str(path)) as file:
        records = [r for r in read_records(file, 10_000_000, Counter()) if r.type in READ]
    assert [record.problem for record in records] == [None] * len(records)
    expected = []
    with open(path, "rb") as file:
        archive = WarcioIterator(file)
        for record in archive:
            url = record.rec_headers.get_header("WARC-Target-URI") or ""
            if record.rec_type in READ and not url.strip("<").startswith("metadata://"):
                body = record.raw_stream.read()
                expected.append(
                    (record.rec_headers.get_header("WARC-Record-ID"), archive.get_record_offset(), body)
                )
    assert [(r.headers["warc-record-id"], r.offset, r.body) for r in records] == expected
    assert expected
