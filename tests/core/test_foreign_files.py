"""Datasets of files that no stage has written: no column is lost, and errors name the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safety_ray.core import dataset
from safety_ray.core.errors import UserError, user_error_in
from safety_ray.core.records import DOCUMENT

FILES = 40
SAMPLED, OTHER = 36, 37  # every third file is looked at before a stage starts
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "more": (
        {"id": ["x"], "text": ["t"], "url": ["u"], "day": ["1"]},
        "has a column 'day', which other files lack; give all files the same columns, or run the ingest job",
    ),
    "less": ({"id": ["x"], "text": ["t"]}, "has no column 'url', which other files have"),
    "no id": ({"text": ["t"], "url": ["u"]}, "has no column 'id'"),
    "number": ({"id": [7], "text": ["t"], "url": ["u"]}, "must be text, not int64"),
    "type": (
        {"id": ["x"], "text": ["t"], "url": [3]},
        "'url' of '.*' is int64, and that of other files is string",
    ),
    "dictionary": (
        {"id": ["x"], "text": ["t"], "url": pa.array(["u"]).dictionary_encode()},
        "'url' of '.*' is dictionary.*, and that of other files is string",
    ),
    "bytes": ({"id": ["x"], "text": [b"t"], "url": ["u"]}, "must be text, not binary"),
}


def write(folder: Path, columns: dict[int, dict[str, Any]]) -> None:
    for number in range(FILES):
        rows = {"url": [f"u{number}"], "text": ["a text"], "id": [str(number)]}
        pq.write_table(pa.table(columns.get(number, rows)), folder / f"{number:02}.parquet")


@pytest.mark.parametrize("odd", ODD)
def test_read_rejects_odd_file_of_sample_before_work(tmp_path: Path, odd: str) -> None:
    columns, message = ODD[odd]
    write(tmp_path, {SAMPLED: columns})
    with pytest.raises(UserError, match=f"{SAMPLED}.parquet' {message}|{message}.*"):
        dataset.read(str(tmp_path), DOCUMENT)


@pytest.mark.parametrize("odd", ODD)
def test_read_rejects_odd_file_when_it_is_read(tmp_path: Path, ray_cluster: None, odd: str) -> None:
    columns, message = ODD[odd]
    write(tmp_path, {OTHER: columns})
    with pytest.raises(Exception) as caught:  # noqa: PT011
        dataset.read(str(tmp_path), DOCUMENT).materialize()
    found = user_error_in(caught.value)
    assert found is not None
    assert f"{OTHER}.parquet'" in str(found)
    assert re.search(message, str(found))


def test_stream_rejects_file_without_column(tmp_path: Path, ray_cluster: None) -> None:
    write(tmp_path, {OTHER: ODD["less"][0]})
    assert dataset.stream(dataset.files(str(tmp_path)), ["id"]).count() == FILES
    with pytest.raises(Exception) as caught:  # noqa: PT011
        dataset.stream(dataset.files(str(tmp_path)), ["id", "url"]).materialize()
    assert "37.parquet' has no column 'url', which other files have" in str(user_error_in(caught.value))


def test_read_accepts_other_types_of_text(tmp_path: Path, ray_cluster: None) -> None:
    large = {name: pa.array(["x"], pa.large_string()) for name in ("id", "text", "url")}
    write(tmp_path, {SAMPLED: large, OTHER: {**large, "id": ["y"]}})
    rows = {row["id"]: row["url"] for row in dataset.read(str(tmp_path), DOCUMENT).take_all()}
    assert len(rows) == FILES
    assert (rows["x"], rows["y"]) == ("x", "x")


def test_read_accepts_other_order_and_no_values(tmp_path: Path, ray_cluster: None) -> None:
    odd = {"id": ["x"], "text": ["t"], "url": pa.nulls(1)}
    write(tmp_path, {SAMPLED: odd, OTHER: {**odd, "rejected_reason": pa.nulls(1, pa.string())}})
    rows = dataset.read(str(tmp_path), DOCUMENT).take_all()
    assert len(rows) == FILES
    assert [row["url"] for row in rows if row["id"] == "x"] == [None, None]
    assert all(row.keys() == {"id", "text", "url"} for row in rows)
