"""The bytes of a file that follow damage and are not read are counted, and limited by max_rejected."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core.errors import UserError
from safety_ray.ingest import readers

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
    with pytest.raises(UserError, match=r"of [\d,]+ bytes of '.*' are damaged or follow damage, more than"):
        ingest_documents(IngestConfig(**settings))
    record = ingest_documents(IngestConfig(**settings, max_rejected=0.95))
    assert record["rejected"] == 1
    assert record["bytes_unreadable"] / len(data) == pytest.approx(0.9, abs=TOLERANCE)
