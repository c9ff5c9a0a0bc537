"""Errors of pyarrow that mean that a file is damaged."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safety_ray.core import dataset
from safety_ray.core.errors import UserError, user_error_in
from safety_ray.core.parquet import readable
from safety_ray.core.records import LABELLED
from safety_ray.evaluate.documents import choose
from safety_ray.ingest import readers, unique_ids
from safety_ray.train import prepare

MESSAGE = r"b\.parquet' is not a readable Parquet file: [^\n]*\.$"
READERS: dict[str, Callable[[Path], object]] = {
    "count where": lambda path: dataset.count_where(str(path), "source_file", ["in/b5"]),
    "count groups": lambda path: dataset.count_groups(str(path), ["source_file"]),
    "table": lambda path: dataset.table(str(path)),
    "documents": lambda path: choose([str(path)], safe_up_to=1, unsafe_from=4, limit=2, seed=0),
    "chats": lambda path: list(prepare.read(str(path))),
    "ids": lambda path: [
        unique_ids.read_keys({"stored": np.array([0]), "path": np.array([file])}, ["in/b5"])
        for file in dataset.files(str(path))
    ],
}


@pytest.mark.parametrize("damage", ["shortened", "no beginning", "empty", "footer overwritten"])
def test_readable_reports_damaged_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [str(n) for n in range(100)]}), path)
    content = path.read_bytes()
    damaged = {
        "shortened": content[:40],
        "no beginning": content[-30:],
        "empty": b"",
        "footer overwritten": content[:-20] + b"\xff" * 12 + content[-8:],
    }
    path.write_bytes(damaged[damage])
    message = r"a\.parquet' is not a readable Parquet file: [^\n]*\.$"
    with pytest.raises(UserError, match=message), readable(str(path)):
        pq.read_table(path, partitioning=None)


def test_readable_keeps_errors_of_file_systems(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), readable("a"):
        pq.read_table(tmp_path / "a.parquet", partitioning=None)
    with pytest.raises(ConnectionResetError), readable("a"):
        raise ConnectionResetError("the server closed the connection")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a dataset of three files; the one in the middle has damaged pages and a valid footer."""
    for name in "abc":
        rows = {
            "id": [f"{name}{n}" for n in range(99)],
            "text": [f"text {n}" for n in range(99)],
            "label": pa.array([n % 6 for n in range(99)], pa.int8()),
            "source_file": [f"in/{name}{n}" for n in range(99)],
            "source_position": range(99),
        }
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet", use_dictionary=False)
    path = tmp_path / "b.parquet"
    content, footer = path.read_bytes(), pq.read_metadata(path)
    columns = [footer.row_group(0).column(n) for n in range(footer.num_columns)]
    for column in columns:
        start, size = column.data_page_offset, column.total_compressed_size
        content = content[: start + 40] + b"\xff" * (size - 40) + content[start + size :]
    path.write_bytes(content)
    assert pq.read_metadata(path).num_rows == 99
    return tmp_path


@pytest.mark.parametrize("reader", READERS)
def test_readers_name_file_with_damaged_pages(folder: Path, reader: str) -> None:
    with pytest.raises(UserError, match=MESSAGE):
        READERS[reader](folder)


def test_stream_names_file_with_damaged_pages(folder: Path, ray_cluster: None) -> None:
    for rows in (dataset.stream(dataset.files(str(folder))), dataset.read(str(folder), LABELLED)):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            rows.materialize()
        found = user_error_in(caught.value)
        assert found is not None
        assert re.search(MESSAGE, str(found).splitlines()[0])


def test_stream_pushes_columns_into_reads(folder: Path, ray_cluster: None) -> None:
    (folder / "b.parquet").unlink()
    rows = dataset.stream(dataset.files(str(folder)), ["id", "text"]).select_columns(["id"])
    assert sorted(row["id"] for row in rows.take_all()) == sorted(f"{f}{n}" for f in "ac" for n in range(99))


def test_ingest_rejects_rest_of_damaged_row_group(folder: Path) -> None:
    *_, last = readers.read(str(folder / "b.parquet"), 1000)
    assert last.problem is not None
    assert last.problem.startswith("the rest of this row group of the Parquet file cannot be read: ")
