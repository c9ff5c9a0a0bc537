"""Token rows are read by number; the order of a run is a function of seed and step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from safety_ray.core.errors import UserError
from safety_ray.train.data import SOURCES, TokenRows, rows_at

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
