"""The bytes of a file that follow damage and are not read are counted, and limited by max_rejected."""

from __future__ import annotations

import bisect
import gzip
import json
import random
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core.errors import UserError
from safety_ray.ingest import readers
from safety_ray.ingest.raw_record import RawRecord

ROWS = 6000
RNG = random.Random(0)
TEXTS = [" ".join(str(RNG.randrange(10**9)) for _ in range(60)) for _ in range(ROWS)]
LINES = [json.dumps({"id": str(n), "text": text}).encode() + b"\n" for n, text in enumerate(TEXTS)]
GARBAGE = b"\xff" * 300
TOLERANCE = 0.05
"""share of the file that a decompressor may read before it notices the damage"""


def warc_record(text: str) -> bytes:
    body = text.encode()
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body + b"\r\n\r\n"


def lost(path: Path) -> int:
    return sum(raw.lost for raw in readers.read(str(path), 10**6))


def damage(data: bytes, position: int) -> bytes:
    return data[:position] + GARBAGE + data[position + len(GARBAGE) :]


def zstd(pieces: list[bytes]) -> bytes:
    return zstandard.ZstdCompressor().compress(b"".join(pieces))


def gzip_members(pieces: list[bytes]) -> bytes:
    """Compress each piece: damage inside a member may be found at its end only, by the checksum."""
    return b"".join(map(gzip.compress, pieces))


@pytest.mark.parametrize(("name", "compress"), [("a.jsonl.gz", gzip_members), ("a.jsonl.zst", zstd)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_lost_bytes_of_compressed_lines_are_those_after_damage(
    tmp_path: Path, name: str, compress: Callable[[list[bytes]], bytes], share: float
) -> None:
    data = compress(LINES)
    (tmp_path / name).write_bytes(data)
    assert lost(tmp_path / name) == 0
    (tmp_path / name).write_bytes(damage(data, int(share * len(data))))
    assert lost(tmp_path / name) / len(data) == pytest.approx(1 - share, abs=TOLERANCE)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_all_lines_before_damage_are_read(tmp_path: Path, end: bytes) -> None:
    """Also those that the decompressor had read when it noticed the damage, and the last one."""
    content = b"".join(LINES[:300]).removesuffix(b"\n") + end
    tails = {"gz": gzip.compress(content)[:-8] + bytes(8), "zst": zstandard.compress(content) + b"no frame"}
    for name, data in tails.items():
        (tmp_path / f"a.jsonl.{name}").write_bytes(data)
        *rows, last = readers.read(str(tmp_path / f"a.jsonl.{name}"), 10**6)
        assert [row.value and row.value["text"] for row in rows] == TEXTS[:300]
        assert [row.position for row in (*rows, last)] == list(range(1, 302))
        assert last.problem is not None
        assert 8 <= last.lost <= 9


HTML = "<html><body><article>" + "".join(f"<p>{text}</p>" for text in TEXTS[:1500])
PACKERS = [("a.html.gz", gzip.compress, "gzip member"), ("a.htm.zst", zstandard.compress, "Zstandard frame")]


def read_page(path: Path, data: bytes) -> RawRecord:
    path.write_bytes(data)
    (raw,) = readers.read(str(path), 10**7)
    return raw


def unpacked(name: str, data: bytes) -> bytes:
    state = zlib.decompressobj(31) if "gz" in name else zstandard.ZstdDecompressor().decompressobj()
    return state.decompress(data)


@pytest.mark.parametrize(("name", "pack", "kind"), PACKERS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_text_of_truncated_page_is_kept(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], kind: str, share: float
) -> None:
    data = pack(HTML.encode())
    data = data[: int(share * len(data))]
    content = unpacked(name, data)
    used = bisect.bisect_left(range(len(data)), len(content), key=lambda n: len(unpacked(name, data[:n])))
    found, expected = read_page(tmp_path / name, data), read_page(tmp_path / "a.html", content)
    reason = f"the file ends inside the {kind} that begins at byte 0"
    assert expected.value is not None
    assert found.value == {**expected.value, "truncated": reason}
    assert (found.problem, found.lost) == (None, len(data) - used)


@pytest.mark.parametrize("size", [5_000, 400_000])
def test_text_before_damage_of_page_is_kept(tmp_path: Path, size: int) -> None:
    """The damage is the type of a block, which both formats leave undefined."""
    content = HTML[:size].encode()
    expected = read_page(tmp_path / "a.html", content)
    assert expected.value is not None
    gz, zst = zlib.compressobj(wbits=31), zstandard.ZstdCompressor().compressobj()
    blocks = {
        "gz": gz.compress(content) + gz.flush(zlib.Z_FULL_FLUSH),
        "zst": zst.compress(content) + zst.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
    }
    for name, data in blocks.items():
        found = read_page(tmp_path / f"a.html.{name}", data + b"\x07" * 500)
        assert found.value is not None
        assert found.value["text"] == expected.value["text"]
        assert "that begins at byte 0 is damaged (" in found.value["truncated"]
        assert found.problem is None
        assert 500 <= found.lost <= 510


@pytest.mark.parametrize(("name", "pack", "kind"), PACKERS)
def test_page_without_text_before_damage_is_lost(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], kind: str
) -> None:
    data = pack(HTML[:9000].encode())
    for broken in (data[:12], data[:10] + b"\x07" * 500):
        found = read_page(tmp_path / name, broken)
        assert found.problem is not None
        assert found.problem.startswith("the file is damaged: the ")
        assert kind in found.problem
        assert found.problem.endswith(" (before that: empty body)")
        assert found.lost == len(broken)


def test_lost_bytes_of_compressed_archive_are_those_of_the_damaged_record(tmp_path: Path) -> None:
    members = [gzip.compress(warc_record(text)) for text in TEXTS]
    starts = [sum(map(len, members[:n])) for n in (100, 200)]
    data = b"".join(members)
    for start in starts:  # 20 bytes into a member, whose rest is lost
        data = damage(data, start + 20)
    (tmp_path / "a.warc.gz").write_bytes(data)
    found = lost(tmp_path / "a.warc.gz")
    assert 0 < found < len(members[100]) + len(members[200]) + 2 * len(GARBAGE)


def test_lost_bytes_of_plain_archive_are_those_to_the_next_record(tmp_path: Path) -> None:
    records = [warc_record(text) for text in TEXTS]
    start = sum(map(len, records[:100]))
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    assert lost(tmp_path / "a.warc") == 0
    (tmp_path / "a.warc").write_bytes(damage(b"".join(records), start))
    assert lost(tmp_path / "a.warc") == pytest.approx(len(records[100]), abs=8)


def test_lost_bytes_of_parquet_are_those_of_damaged_row_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"id": list(map(str, range(ROWS))), "text": TEXTS})
    pq.write_table(table, path, row_group_size=1500, use_dictionary=False)
    assert lost(path) == 0
    groups = [pq.ParquetFile(path).metadata.row_group(n) for n in range(4)]
    sizes = [sum(group.column(n).total_compressed_size for n in range(2)) for group in groups]
    text = groups[1].column(1)
    path.write_bytes(damage(path.read_bytes(), text.data_page_offset))
    rows = Counter(raw.problem is None for raw in readers.read(str(path), 10**6))
    assert rows == {True: 4500, False: 1}
    assert lost(path) == sizes[1]


def test_ingest_stage_limits_lost_bytes(tmp_path: Path, ray_cluster: None) -> None:
    data = gzip_members(LINES)
    (tmp_path / "a.jsonl.gz").write_bytes(damage(data, len(data) // 10))
    settings = {"input": str(tmp_path / "a.jsonl.gz"), "output": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"of [\d,]+ bytes of '.*' could not be read, more than"):
        ingest_documents(IngestConfig(**settings))
    record = ingest_documents(IngestConfig(**settings, max_rejected=0.95))
    whole = sum(end <= len(data) // 10 for end in accumulate(len(gzip.compress(line)) for line in LINES))
    assert record["rows_out"] == whole
    assert record["bytes_unreadable"] / len(data) == pytest.approx(0.9, abs=TOLERANCE)


def test_ingest_stage_limits_lost_bytes_of_pages(tmp_path: Path, ray_cluster: None) -> None:
    """Whole pages have no report, but count in the share."""
    sizes = [9_000, 18_000, 27_000]
    for size in sizes:
        (tmp_path / f"{size}.html").write_text(HTML[:size])
    packed = gzip.compress(HTML.encode())
    damaged = packed[:10] + b"\x07" * len(packed)
    settings = {"input": str(tmp_path / "*.html*"), "output": str(tmp_path / "out")}
    (tmp_path / "a.html.gz").write_bytes(damaged)
    with pytest.raises(UserError, match=f"{len(damaged):,} of {sum(sizes) + len(damaged):,} bytes"):
        ingest_documents(IngestConfig(**settings))
    record = ingest_documents(IngestConfig(**settings, max_rejected=0.95))
    assert (record["rows_out"], record["rejected"], record["bytes_unreadable"]) == (3, 1, len(damaged))
    (tmp_path / "a.html.gz").write_bytes(damaged[:20_000])
    record = ingest_documents(IngestConfig(**settings | {"output": str(tmp_path / "less")}))
    assert record["bytes_unreadable"] == 20_000
