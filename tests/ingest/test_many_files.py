"""The columns of many input files: a sample is checked at the start, and each file when it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from jobs.ingest import IngestConfig, check_columns, ingest_documents
from safety_ray.core import dataset
from safety_ray.core.errors import UserError
from safety_ray.ingest import readers

FILES = 1000
COLUMNS = {"text": "content", "url": "meta.url"}


class CountedFiles(LocalFileSystem):
    """The local filesystem, with the files that were opened."""

    protocol = "counted"
    opened: list[str]

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self.opened.append(path)
        return super()._open(path, *args, **kwargs)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    fsspec.register_implementation("counted", CountedFiles, clobber=True)
    CountedFiles.opened = []
    yield CountedFiles.opened
    fsspec.get_filesystem_class("counted").clear_instance_cache()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(FILES):
        value = {"content": f"Text {number}.", "meta": {"url": "http://example.com"}}
        (folder / f"{number:04}.jsonl").write_text(json.dumps(value))
    return folder


def check(folder: Path, columns: dict[str, str]) -> None:
    source = f"counted://{folder}"
    config = IngestConfig(input=source, output=str(folder / "out"), columns=columns)
    check_columns(config, readers.list_files(source))


def test_check_columns_opens_few_of_many_files(many: Path, opened: list[str]) -> None:
    check(many, COLUMNS)
    assert len(opened) == len(set(opened)) <= 16
    places = sorted(int(Path(path).stem) for path in opened)
    assert places[0] == 0
    assert places[-1] > FILES * 0.9


def test_check_columns_rejects_wrong_name_after_sample(many: Path, opened: list[str]) -> None:
    message = r"a sample of 250 files of '.*' has no field 'contents', .* the nearest is 'content'"
    with pytest.raises(UserError, match=message):
        check(many, {"text": "contents"})
    assert len(opened) <= 16 + 256


def test_check_columns_finds_field_that_few_files_have(many: Path, tmp_path: Path, opened: list[str]) -> None:
    files = sorted(many.iterdir())
    for number, file in enumerate(files):
        value = json.loads(file.read_text()) | ({"day": "1"} if number % 20 == 4 else {})
        (tmp_path / file.name).write_text(json.dumps(value))
    check(tmp_path, COLUMNS | {"date": "day"})


def test_ingest_rejects_files_without_the_text(tmp_path: Path, ray_cluster: None) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [{"content": f"Text {n}.", "meta": {"url": f"http://example.com/{n}"}} for n in range(220)]
    for number in range(20):
        part = rows[10 * number : 10 * number + 10]
        pq.write_table(pa.Table.from_pylist(part), folder / f"{number:02}.parquet")
    pq.write_table(pa.table({"body": ["a", "b"], "id": [1, 2]}), folder / "20.parquet")
    (folder / "21.parquet").write_bytes(b"PAR1 and no footer")
    (folder / "22.jsonl").write_text('{"content": "A page without an address.", "meta": null}\n')
    (folder / "23.jsonl").write_text("\n".join(json.dumps(row) for row in rows[200:]))
    out = tmp_path / "out"
    record = ingest_documents(IngestConfig(input=str(folder), output=str(out), columns=COLUMNS))
    assert (record["rows_out"], record["rejected"]) == (200 + 1 + 20, 2)
    odd = [folder / "20.parquet", folder / "21.parquet"]
    assert record["bytes_unreadable"] == sum(path.stat().st_size for path in odd)
    assert record["fields_missing"] == {"meta.url": 1}
    rejected = pq.read_table(out / "rejected", partitioning=None).to_pylist()
    reasons = {row["source_file"]: row["rejected_reason"] for row in rejected}
    assert reasons[str(odd[0])] == "the file, with 2 rows, has no field 'content'; it has body, id"
    assert reasons[str(odd[1])].startswith("the file is not a readable Parquet file: ")


def test_ingest_fails_if_most_bytes_are_of_unusable_files(tmp_path: Path, ray_cluster: None) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "One page."}\n{"text": "Another page."}\n')
    for name in "bc":
        pq.write_table(pa.table({"body": [f"{name} {n}" for n in range(500)]}), folder / f"{name}.parquet")
    with pytest.raises(UserError, match=r"bytes of '.*' could not be read"):
        ingest_documents(IngestConfig(input=str(folder), output=str(tmp_path / "out"), max_rejected=0.6))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_ingest_keeps_split_that_occurs_late(tmp_path: Path, ray_cluster: None, kind: str) -> None:
    """As a field of `extra` it would not hold the document out of training."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(40):
        rows = [{"id": f"{number} {n}", "text": f"Text {n} of {number}."} for n in range(150)]
        if number == 38:
            rows[149]["split"] = "heldout"
        if kind == "jsonl":
            (folder / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        else:
            names = ["id", "text", "split"] if number == 38 else ["id", "text"]
            columns = {name: [row.get(name) for row in rows] for name in names}
            pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    record = ingest_documents(IngestConfig(input=str(folder), output=str(tmp_path / "out")))
    assert record["rows_out"] == 40 * 150
    rows = dataset.table(str(tmp_path / "out"), ["id", "split"]).to_pylist()
    assert [row["id"] for row in rows if row["split"] == "heldout"] == ["38 149"]
