"""Row groups of token rows begin at multiples of their size, and the index is that of the footers."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safety_ray.core import row_groups
from safety_ray.core.errors import UserError
from safety_ray.core.records import TOKEN_ROW, schema


def rows(first: int, count: int) -> pa.Table:
    """Return token rows of one token."""
    span = {"id": "d", "source_id": "d", "recipe": "raw", "start": 0, "length": 1, "unsafe": False}
    columns = {
        "row": np.arange(first, first + count),
        "input_ids": [[5]] * count,
        "spans": [[span]] * count,
    }
    return pa.table(columns, schema=schema(TOKEN_ROW))


def write(folder: str, *counts: int) -> None:
    first = 0
    for number, count in enumerate(counts):
        row_groups.write_rows(rows(first, count), f"{folder}/data/shard-{number}.parquet")
        first += count


def test_write_rows_aligns_groups_to_shuffled_blocks(tmp_path: Path) -> None:
    write(str(tmp_path), 1500, 2600)
    found = []
    for number in range(2):
        file = pq.ParquetFile(tmp_path / "data" / f"shard-{number}.parquet")
        assert file.num_row_groups >= file.metadata.num_rows / 1024
        found.append([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)])
    assert found == [[1024, 476], [548, 1024, 1024, 4]]
    written = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "data").iterdir())])
    assert written.equals(rows(0, 4100))


def test_row_group_index_equals_footers_at_any_url(tmp_path: Path) -> None:
    for folder in (str(tmp_path), "memory://row-groups"):
        write(folder, 1500, 2600)
        from_footers = row_groups.load(folder)
        assert row_groups.write_index(folder) == 4100 == row_groups.rows_in(from_footers)
        assert row_groups.load(folder).equals(from_footers)
        assert from_footers.to_pylist()[1:3] == [
            {"first": 1024, "last": 1499, "file": "shard-0.parquet", "group": 1},
            {"first": 1500, "last": 2047, "file": "shard-1.parquet", "group": 0},
        ]
        last = row_groups.file_path(folder, from_footers.column("file")[-1].as_py())
        with fsspec.open(last) as file:
            assert pq.read_metadata(file).num_rows == 2600
        with fsspec.open(last, "wb") as file:
            file.write(b"")
        assert row_groups.load(folder).equals(from_footers), "no footer is read"


def test_row_group_index_rejects_other_files(tmp_path: Path) -> None:
    write(str(tmp_path), 30, 10)
    row_groups.write_index(str(tmp_path))
    extra = tmp_path / "data" / "shard-2.parquet"
    pq.write_table(rows(40, 2), extra)
    with pytest.raises(UserError, match=r"shard-2\.parquet' is not in groups\.parquet"):
        row_groups.load(str(tmp_path))
    extra.unlink()
    (tmp_path / "data" / "shard-0.parquet").unlink()
    with pytest.raises(UserError, match=r"shard-0\.parquet' is missing"):
        row_groups.load(str(tmp_path))


def test_row_group_index_rejects_wrong_numbers(tmp_path: Path) -> None:
    for name, numbers, message in (
        ("gap", [0, 1, 3], "3 rows numbered 0 to 3 in one row group"),
        ("late", [1, 2, 3], "has row 1 instead of row 0"),
    ):
        table = rows(0, len(numbers)).set_column(0, "row", pa.array(numbers))
        (tmp_path / name / "data").mkdir(parents=True)
        pq.write_table(table, tmp_path / name / "data" / "a.parquet")
        with pytest.raises(UserError, match=message):
            row_groups.write_index(str(tmp_path / name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no token rows in data/"):
        row_groups.load(str(tmp_path / "empty"))
