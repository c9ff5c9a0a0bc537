"""Records of archives: every one that is whole is read, every one that is not is named with its place."""

from __future__ import annotations

import gzip
import io
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from archive_writer import Archive, gzip_each, page, pages, split
from fastwarc.warc import ArchiveIterator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from safety_ray.ingest.archives import READ, Record, records
from safety_ray.ingest.source import Source

COUNT = 12
PLAIN = pages(COUNT, packed=False)
PARTS = split(PLAIN.data, PLAIN.offsets)


def read(folder: Path, data: bytes, max_bytes: int = 1_000_000) -> tuple[list[Record], list[Record]]:
    """The whole records of a file, and the others."""
    (folder / "a.warc").write_bytes(data)
    with Source(str(folder / "a.warc")) as source:
        found = list(records(source, max_bytes, Counter()))
    return [one for one in found if one.problem is None], [one for one in found if one.problem is not None]


def urls(found: list[Record]) -> list[str]:
    return [one.headers["warc-target-uri"] for one in found]


def url(number: int) -> str:
    return f"http://example.com/{number}"


def with_dictionary(parts: list[bytes]) -> bytes:
    """What `zstd -D` based crawlers write: a dictionary in a skippable frame, then a frame a record."""
    samples = [page(i).encode() for i in range(200)]
    dictionary = zstandard.train_dictionary(4096, samples).as_bytes()
    packer = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
    head = b"\x5d\x2a\x4d\x18" + len(dictionary).to_bytes(4, "little") + dictionary
    return head + b"".join(packer.compress(part) for part in parts)


PACKINGS = {
    "plain": b"".join(PARTS),
    "a gzip member each": gzip_each(PARTS),
    "one gzip member": gzip.compress(PLAIN.data),
    "gzip members that cut records": gzip_each(
        [PLAIN.data[i : i + 999] for i in range(0, len(PLAIN.data), 999)]
    ),
    "gzip, then zeros": gzip_each(PARTS) + b"\0" * 500,
    "a Zstandard frame each": b"".join(map(zstandard.compress, PARTS)),
    "one Zstandard frame": zstandard.compress(PLAIN.data),
    "Zstandard with a dictionary": with_dictionary(PARTS),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_warc_records_match_fastwarc_for_every_compression(tmp_path, packing) -> None:
    whole, broken = read(tmp_path, PACKINGS[packing])
    data = PLAIN.data if "zeros" in packing else PACKINGS[packing]  # FastWARC takes zeros for damage
    wanted = [
        (one.headers["WARC-Target-URI"], one.reader.read()) for one in ArchiveIterator(io.BytesIO(data))
    ]
    assert [(one.headers["warc-target-uri"], one.body) for one in whole] == wanted
    assert len(whole) == COUNT
    assert broken == []


def test_warc_records_offsets_locate_each_record(tmp_path) -> None:
    packed = pages(COUNT)
    for data, offsets in ((packed.data, packed.offsets), (PLAIN.data, PLAIN.offsets)):
        whole, _ = read(tmp_path, data)
        assert [one.offset for one in whole] == offsets
        assert {one.inner for one in whole} == {0}
        for one in whole:
            again = next(iter(WarcioIterator(io.BytesIO(data[one.offset :]))))
            assert again.rec_headers.get_header("WARC-Record-ID") == one.headers["warc-record-id"]
            assert again.raw_stream.read() == one.body
    whole, _ = read(tmp_path, PACKINGS["one gzip member"])
    assert [one.offset for one in whole] == [0] * COUNT
    assert [one.inner for one in whole] == PLAIN.offsets


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_warc_records_keep_records_before_truncation(tmp_path, packed) -> None:
    archive = pages(5, packed)
    ends = [*archive.offsets[1:], len(archive.data)]
    cuts = sorted({*range(archive.offsets[2], ends[2], 37), *ends, *(end - 5 for end in ends)})
    for cut in cuts:
        whole, broken = read(tmp_path, archive.data[:cut])
        before = sum(end <= cut for end in ends)
        if cut in ends:
            assert urls(whole) == [url(i) for i in range(before)]
            assert broken == []
            continue
        begin = archive.offsets[before]
        # Of a record whose checksum or last line ends are missing all of the text may be there.
        assert urls(whole)[:before] == [url(i) for i in range(before)]
        assert len(whole) <= before + (cut > ends[before] - 10)
        if packed or len(whole) == before:
            assert broken
            assert {one.offset for one in broken} <= {begin, begin - 4}
            assert "break" in broken[-1].problem or "no WARC record" in broken[-1].problem


def test_warc_records_lose_one_record_per_damaged_gzip_member(tmp_path) -> None:
    archive = pages(6)
    begin, end = archive.offsets[3], archive.offsets[4]
    damaged = 0
    for place in range(begin, end, 11):
        data = bytearray(archive.data)
        data[place] ^= 0xFF
        whole, broken = read(tmp_path, bytes(data))
        others = [url(i) for i in range(6) if i != 3]
        assert [one for one in urls(whole) if one != url(3)] == others
        if url(3) not in urls(whole):
            damaged += 1
            assert {one.offset for one in broken} == {begin}
            assert f"gzip member that begins at byte {begin:,} is damaged" in broken[-1].problem
    assert damaged > 20


def test_warc_records_read_data_appended_after_truncation(tmp_path) -> None:
    archive = pages(6)
    half = archive.data[: archive.offsets[3] + 150]
    whole, broken = read(tmp_path, half + archive.data[archive.offsets[3] :])
    assert urls(whole) == [url(i) for i in range(6)]
    assert [one.offset for one in broken if not one.type] == [archive.offsets[3]]


WRONG = {
    "too short": (lambda n: str(n - 300), "goes on after"),
    "a little too short": (lambda n: str(n - 1), "goes on after"),
    "too long": (lambda n: str(n + 300), "goes on after|breaks off"),
    "longer than the file": (lambda n: str(n + 10**9), "breaks off|longer than max_bytes"),
    "negative": (lambda n: "-5", "no number but '-5'"),
    "a word": (lambda n: "many", "no number but 'many'"),
}


@pytest.mark.parametrize("packing", ["plain", "a gzip member each", "one gzip member"])
@pytest.mark.parametrize("wrong", WRONG)
def test_warc_records_reject_record_with_wrong_content_length(tmp_path, wrong, packing) -> None:
    change, reason = WRONG[wrong]
    parts = list(PARTS)
    parts[4] = re.sub(rb"(?<=Content-Length: )\d+", lambda m: change(int(m[0])).encode(), parts[4], count=1)
    joined = b"".join(parts)
    data = {"plain": joined, "a gzip member each": gzip_each(parts)}.get(packing, gzip.compress(joined))
    whole, broken = read(tmp_path, data)
    assert urls(whole) == [url(i) for i in range(COUNT) if i != 4]
    (one,) = broken
    assert one.headers["warc-target-uri"] == url(4)
    assert re.search(reason, one.problem)
    place = len(gzip_each(parts[:4])) if packing == "a gzip member each" else PLAIN.offsets[4]
    assert one.offset + one.inner == place


def test_warc_records_report_and_skip_junk(tmp_path) -> None:
    junk = b"<html>no record</html>\r\n\r\n"
    for parts in ([*PARTS[:3], junk, *PARTS[3:]], [junk, *PARTS]):
        whole, broken = read(tmp_path, b"".join(parts))
        assert len(whole) == COUNT
        (one,) = broken
        assert one.problem.startswith("no WARC record begins here")
    whole, broken = read(tmp_path, b"no archive at all\n" * 10_000)
    assert (len(whole), len(broken)) == (0, 1)
    assert read(tmp_path, b"") == ([], [])


def test_warc_records_skip_oversized_record_in_bounded_memory(tmp_path) -> None:
    limit = 500_000
    for packed in (True, False):
        archive = Archive(packed)
        archive.response(url(0), page(0)).response(url(1), bytes(20_000_000)).response(url(2), page(2))
        (tmp_path / "a.warc").write_bytes(archive.data)
        del archive
        tracemalloc.start()
        with Source(str(tmp_path / "a.warc")) as source:
            found = list(records(source, limit, Counter()))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert urls(found) == [url(0), url(1), url(2)]
        assert [one.problem for one in found] == [None, f"the record is longer than max_bytes={limit}", None]
        assert peak < 6_000_000


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    packing=st.sampled_from(sorted(PACKINGS)),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 400), st.binary(max_size=40)), max_size=4),
)
def test_warc_records_tolerate_random_corruption(tmp_path, packing, edits) -> None:
    data = PACKINGS[packing]
    for share, cut, put in edits:
        at = int(share * len(data))
        data = data[:at] + put + data[at + cut :]
    whole, broken = read(tmp_path, data)
    assert all(0 <= one.offset <= len(data) for one in whole + broken)
    if data == PACKINGS[packing]:
        assert (len(whole), len(broken)) == (COUNT, 0)


def test_warc_records_count_ignored_record_types(tmp_path) -> None:
    archive = Archive().info(isPartOf="CC-MAIN-2024-22")
    archive.add("request", url(0), b"", (("Host", "example.com"),)).response(url(0), page(0))
    archive.add("metadata", url(0), b"a: b", content_type="application/warc-fields")
    archive.add("revisit", url(1), b"", (("Content-Type", "text/html"),))
    (tmp_path / "a.warc.gz").write_bytes(archive.data)
    ignored: Counter[str] = Counter()
    with Source(str(tmp_path / "a.warc.gz")) as source:
        found = [one.type for one in records(source, 1000_000, ignored)]
    assert found == ["warcinfo", "response"]
    assert ignored == {"request": 1, "metadata": 1, "revisit": 1}


@pytest.mark.parametrize("name", ["whirlwind.warc.gz", "whirlwind.warc.wet.gz", "sample-0000.warc.gz"])
def test_warc_records_match_warcio_on_real_archives(real_data, name) -> None:
    path = real_data / "web" / name
    with Source(str(path)) as source:
        found = [one for one in records(source, 10_000_000, Counter()) if one.type in READ]
    assert [one.problem for one in found] == [None] * len(found)
    wanted = []
    with open(path, "rb") as file:
        archive = WarcioIterator(file)
        for record in archive:
            if record.rec_type in READ:
                body = record.raw_stream.read()
                wanted.append(
                    (record.rec_headers.get_header("WARC-Record-ID"), archive.get_record_offset(), body)
                )
    assert [(one.headers["warc-record-id"], one.offset, one.body) for one in found] == wanted
    assert wanted
