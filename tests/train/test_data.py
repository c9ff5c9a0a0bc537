"""Token rows are read by number; the order of a run is a function of seed and step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from safety_ray.core import row_groups
from safety_ray.core.errors import UserError
from safety_ray.core.terms import SOURCES
from safety_ray.pack.rows import pack_rows
from safety_ray.train.data import TokenRows, rows_at

LENGTH = 16
WriteRows = Callable[..., str]


def test_token_rows_read_matches_parquet_rows(tmp_path: Path, write_rows: WriteRows) -> None:
    path = write_rows(tmp_path / "rows", rows=40, files=3, cut=9)
    rows = TokenRows(path)
    table = pads.dataset(f"{path}/data", format="parquet").to_table().sort_by("row").to_pylist()
    numbers = np.array([39, 0, 13, 14, 26, 27, 0])
    ids, learn, document, source = rows.read(numbers)
    assert len(rows) == 40
    assert ids.tolist() == [table[n]["input_ids"] for n in numbers]
    for i, number in enumerate(numbers):
        spans, sources = np.full(rows.length, -1), np.full(rows.length, SOURCES.index("other"))
        for n, span in enumerate(table[number]["spans"]):
            tokens = slice(span["start"], span["start"] + span["length"])
            spans[tokens] = n
            sources[tokens] = SOURCES.index("unsafe" if span["unsafe"] else span["recipe"])
        assert learn[i].tolist() == (spans >= 0).tolist()
        assert document[i].tolist() == spans.tolist()
        assert source[i].tolist() == sources.tolist()


def test_token_rows_batch_is_independent_of_world_size(tmp_path: Path, write_rows: WriteRows) -> None:
    rows = TokenRows(write_rows(tmp_path / "rows", rows=20))
    for step in range(12):  # beyond two epochs
        whole, *_ = rows.batch(step, 4, seed=3)
        for world, sizes in ((2, [2, 2]), (3, [1, 1, 2]), (4, [1, 1, 1, 1])):
            shares = [rows.batch(step, 4, seed=3, rank=rank, world=world)[0] for rank in range(world)]
            assert [len(share) for share in shares] == sizes
            assert np.array_equal(np.concatenate(shares), whole)


def write_shards(folder: Path, *counts: int) -> list[dict[str, Any]]:
    """Write shards with `counts` rows as packing does, and return the rows as Python values."""
    generator, first, written = np.random.default_rng(0), 0, []
    for number, count in enumerate(counts):
        ids = [generator.integers(0, 50, size) for size in generator.integers(1, 30, count)]
        ids[-1] = generator.integers(0, 50, count * LENGTH - sum(map(len, ids[:-1])) - 3)
        kinds = generator.integers(0, 3, count)
        documents = pa.table(
            {
                "input_ids": pa.array(ids, pa.list_(pa.int32())),
                "order": pa.array(np.arange(count), pa.uint64()),
                "id": [f"{number}-{n}" for n in range(count)],
                "source_id": [f"s{n}" for n in range(count)],
                "recipe": [("raw", "raw", "refuse")[kind] for kind in kinds],
                "unsafe": [bool(kind == 1) for kind in kinds],
            }
        )
        rows = pack_rows(documents, LENGTH, 0, first, tag_id=7, learn_tags=False)
        assert len(rows) == count
        row_groups.write_rows(rows, str(folder / "data" / f"shard-{number:05}.parquet"))
        written += rows.to_pylist()
        first += count
    record = {"row_length": LENGTH, "vocab_size": 50, "tag": "<t>", "tag_id": 7, "fingerprint": ""}
    (folder / "record.json").write_text(json.dumps(record))
    return written


def expected(row: dict[str, Any]) -> list[list[Any]]:
    """Return ids, learn, document and source of a row, token by token."""
    document, source = [-1] * LENGTH, [SOURCES.index("other")] * LENGTH
    for number, span in enumerate(row["spans"]):
        for token in range(span["start"], span["start"] + span["length"]):
            document[token] = number
            source[token] = SOURCES.index("unsafe" if span["unsafe"] else span["recipe"])
    learn = [owner >= 0 and target for owner, target in zip(document, row["learn"], strict=True)]
    return [row["input_ids"], learn, document, source]


def test_token_rows_batches_equal_brute_force_reader(tmp_path: Path) -> None:
    written = write_shards(tmp_path, 1500, 700, 900)
    for indexed in (False, True):
        if indexed:
            assert row_groups.write_index(str(tmp_path)) == 3100
        rows = TokenRows(str(tmp_path))
        for step in (0, 3, 5) if indexed else (3,):  # step 3 is in the first two epochs
            numbers = rows_at(np.arange(step * 1000, step * 1000 + 1000), 3100, 5)
            wanted = [expected(written[n]) for n in numbers]
            shares = [rows.batch(step, 1000, seed=5, rank=rank, world=2) for rank in range(2)]
            for column, arrays in enumerate(zip(*shares, strict=True)):
                assert np.concatenate(arrays).tolist() == [row[column] for row in wanted]


def test_token_rows_decode_only_groups_of_own_share(tmp_path: Path) -> None:
    write_shards(tmp_path, 3000, 5000)
    row_groups.write_index(str(tmp_path))
    for rank in range(4):
        rows = TokenRows(str(tmp_path))
        rows.batch(0, 4096, seed=0, rank=rank, world=4)
        assert rows.decoded == (2 if rank == 2 else 1)  # rows 2048 to 3071 are in two files
    rows = TokenRows(str(tmp_path))
    for step in range(31):
        rows.batch(step, 256, seed=0, rank=1, world=2)
    assert rows.decoded == 9, "each of the 9 groups is decoded once in the first epoch"
    rows = TokenRows(str(tmp_path))
    rows.read(rows_at(np.arange(8000, 16000), 8000, 0))
    assert rows.decoded == 9, "a shuffled block is in one group, or in two at the end of a file"


@pytest.mark.parametrize("rows", [1, 7, 1023, 1024, 1025, 3000])
def test_rows_at_permutes_all_rows_each_epoch(rows: int) -> None:
    orders = rows_at(np.arange(3 * rows), rows, seed=1).reshape(3, rows)
    assert orders[0].tolist() == list(range(rows))
    for order in orders:
        assert sorted(order) == list(range(rows))
    if rows > 1:
        other = rows_at(np.arange(rows, 2 * rows), rows, seed=2)
        assert rows < 7 or not np.array_equal(orders[1], other)
        assert rows < 7 or not np.array_equal(orders[1], orders[2])


def test_token_rows_rejects_gaps_and_inconsistent_records(tmp_path: Path, write_rows: WriteRows) -> None:
    path = Path(write_rows(tmp_path / "gap", rows=20, files=2))
    (path / "data" / "shard-00000.parquet").unlink()
    with pytest.raises(UserError, match="row 10 instead of row 0"):
        TokenRows(str(path))

    path = Path(write_rows(tmp_path / "length", rows=20))
    record = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps(record | {"row_length": 16}))
    with pytest.raises(UserError, match="has not 16 entries"):
        TokenRows(str(path)).read(np.array([0]))

    (path / "record.json").write_text(json.dumps(record | {"vocab_size": 100}))
    with pytest.raises(UserError, match="outside the vocabulary of 100"):
        TokenRows(str(path)).read(np.array([0]))

    (path / "record.json").unlink()
    with pytest.raises(UserError, match="has no token rows"):
        TokenRows(str(path))


def test_token_rows_reads_unordered_files_by_row_number(tmp_path: Path, write_rows: WriteRows) -> None:
    path = Path(write_rows(tmp_path / "rows", rows=20, files=1))
    expected, *_ = TokenRows(str(path)).read(np.arange(20))
    file = path / "data" / "shard-00000.parquet"
    pq.write_table(pq.read_table(file).sort_by([("row", "descending")]), file)
    ids, *_ = TokenRows(str(path)).read(np.arange(20))
    assert np.array_equal(ids, expected)
