"""The folders of a path, such as `split=train/`, neither add columns to rows nor replace their values."""

from __future__ import annotations

import ast
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core import dataset
from safety_ray.core.artifact import is_finished
from safety_ray.core.records import LABELLED
from safety_ray.evaluate.documents import choose
from safety_ray.ingest.readers import read
from safety_ray.train import prepare

ROOT = Path(__file__).resolve().parents[2]
# Functions of pyarrow and Ray that read the folders of a path unless partitioning is None.
READERS = ("read_parquet", "read_table", "ParquetDataset", "read_csv", "read_json", "dataset")
FOLDERS = "split=train/label=5/score=5/language=xx/id=7/new=1/run[1]"


def calls_that_read_paths(path: Path) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in READERS
        and ast.unparse(node.func.value) in ("pq", "pads", "ray.data")
    ]


def test_every_read_of_parquet_ignores_folders() -> None:
    calls = {
        f"{path.relative_to(ROOT)}:{call.lineno}": {k.arg: ast.unparse(k.value) for k in call.keywords}
        for floor in ("safety_ray", "jobs", "serve")
        for path in (ROOT / floor).rglob("*.py")
        for call in calls_that_read_paths(path)
    }
    assert len(calls) >= 5
    assert [where for where, words in calls.items() if words.get("partitioning") != "None"] == []


@pytest.fixture
def rows() -> pa.Table:
    return pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "text": ["one", "two", "three", "four"],
            "split": ["heldout", "train", None, "heldout"],
            "label": pa.array([0, 0, 4, 4], pa.int8()),
            "language": ["en", "de", None, "fr"],
        }
    )


@pytest.fixture
def folder(tmp_path: Path, rows: pa.Table) -> Path:
    path = tmp_path / FOLDERS
    path.mkdir(parents=True)
    pq.write_table(rows, path / "a.parquet")
    return path


def test_dataset_table_ignores_folders(folder: Path, rows: pa.Table) -> None:
    assert dataset.table(str(folder)).equals(rows)
    assert dataset.count_where(str(folder), "split", ["train"]) == 1
    assert dataset.count_groups(str(folder), ["split"]) == {("heldout",): 2, ("train",): 1, (None,): 1}


def test_other_readers_ignore_folders(folder: Path, rows: pa.Table) -> None:
    assert [record.value for record in read(str(folder / "a.parquet"), 1000)] == rows.to_pylist()
    assert [row for _, row in prepare.read(str(folder))] == rows.to_pylist()
    safe, unsafe, _ = choose([str(folder)], safe_up_to=1, unsafe_from=4, limit=2, seed=0)
    assert ({d.id for d in safe}, {d.id for d in unsafe}) == ({"a", "b"}, {"c", "d"})


def test_dataset_stream_ignores_folders(folder: Path, rows: pa.Table, ray_cluster: None) -> None:
    assert dataset.read(str(folder), LABELLED).take_all() == rows.to_pylist()
    assert dataset.stream(dataset.files(str(folder))).take_all() == rows.to_pylist()


def test_stage_writes_rows_unchanged_into_such_folders(
    folder: Path, tmp_path: Path, ray_cluster: None
) -> None:
    output = tmp_path / "out" / FOLDERS
    ingest_documents(IngestConfig(input=str(folder), output=str(output)))
    written = dataset.table(str(output), ["id", "text", "language"])
    assert written.to_pylist() == [
        {"id": "a", "text": "one", "language": "en"},
        {"id": "b", "text": "two", "language": "de"},
        {"id": "c", "text": "three", "language": None},
        {"id": "d", "text": "four", "language": "fr"},
    ]
    assert is_finished(str(output))
