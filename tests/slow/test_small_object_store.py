"""Rows that do not fit into the object store are spilled to disk: the stage ends, with all rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from exchange_job import FILES, READ, ROWS, write_chunks
from gate import ALL, allow
from killed import ended, start
from ray_head import Head, start_head

from safety_ray.rewrite import tasks

pytestmark = pytest.mark.covers("safety_ray.core.exchange", "jobs.rewrite")
STORE_BYTES = 80_000_000
CHARACTERS = 2 * STORE_BYTES // (FILES * ROWS)
"""of each chunk: all together are twice as large as the object store"""


@pytest.fixture
def head() -> Iterator[Head]:
    started = start_head(4, store_bytes=STORE_BYTES)
    yield started
    started.stop()


def test_exchange_of_more_than_the_object_store_keeps_all_rows(head: Head, tmp_path: Path) -> None:
    write_chunks(tmp_path / "in", CHARACTERS)
    allow(tmp_path / READ, ALL)
    ended(start("exchange_job.py", head, tmp_path, "chunks"), tmp_path)
    chunks: dict[str, dict[int, str]] = {}
    for file in sorted((tmp_path / "in").iterdir()):
        for row in pq.read_table(file).to_pylist():
            chunks.setdefault(row[tasks.DOCUMENT_TASK], {})[row[tasks.CHUNK]] = row["text"]
    joined = dict(json.loads((tmp_path / "result.json").read_text()))
    assert joined.keys() == chunks.keys()
    for name, text in joined.items():
        assert text.split() == " ".join(chunks[name][n] for n in range(FILES)).split()
    assert spilled(head) > 0


def spilled(head: Head) -> int:
    """Return the number of megabytes that the node has spilled."""
    logs = "".join(path.read_text() for path in head.folder.glob("session_*/logs/raylet.out"))
    return max((int(number) for number in re.findall(r"Spilled (\d+) MiB", logs)), default=0)
