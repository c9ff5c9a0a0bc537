"""Column maps: fields of any name, nested or not, become a document's columns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core import dataset
from safety_ray.core.config import load
from safety_ray.core.errors import UserError
from safety_ray.ingest.columns import field_names, renamed

DOLMA = {"text": "content", "id": "doc_id", "url": "metadata.url", "date": "metadata.crawl.date"}


def record(number: int) -> dict[str, object]:
    return {
        "doc_id": f"d{number}",
        "content": f"Text {number}.",
        "text": "not the text",
        "metadata": {
            "url": f"http://example.com/{number}",
            "crawl": {"date": "2024-05-18"},
            "score": number / 2,
        },
    }


def test_columns_renamed_moves_fields_and_keeps_the_rest() -> None:
    before = record(1)
    after = renamed(before, DOLMA)
    assert after == {
        "text_": "not the text",
        "metadata": {"score": 0.5},
        "text": "Text 1.",
        "id": "d1",
        "url": "http://example.com/1",
        "date": "2024-05-18",
    }
    assert before == record(1)
    assert renamed({"a.b": 1, "a": {"b": 2}}, {"text": "a.b"}) == {"a": {"b": 2}, "text": 1}
    assert renamed({"a": {"b": 2}}, {"text": "a.b"}) == {"text": 2}
    assert renamed({"a": 1, "b": 2}, {"id": "a", "url": "a"}) == {"b": 2, "id": 1, "url": 1}
    assert renamed({"a": "no object"}, {"text": "a.b"}) == {"a": "no object", "text": None}
    assert field_names(before) >= {"metadata", "metadata.url", "metadata.crawl.date", "content"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_ingest_columns_map_input_to_documents(tmp_path, ray_cluster, kind) -> None:
    values = [record(i) for i in range(5)]
    if kind == "jsonl":
        lines = [json.dumps(value) for value in [*values, {"doc_id": "none", "metadata": None}]]
        # The first record may lack a field of the map.
        (tmp_path / "a.jsonl").write_text("\n".join(reversed(lines)))
    else:
        empty = {"doc_id": "none", "content": None, "text": None, "metadata": None}
        pq.write_table(pa.Table.from_pylist([*values, empty]), tmp_path / "a.parquet")
    out = tmp_path / "out"
    source = tmp_path / f"a.{kind}"
    result = ingest_documents(IngestConfig(input=str(source), output=str(out), columns=DOLMA))
    assert (result["rows_out"], result["rejected"]) == (5, 1)
    rows = dataset.table(str(out)).to_pylist()
    for i, row in enumerate(rows):
        expected = (f"d{i}", f"Text {i}.", f"http://example.com/{i}", "2024-05-18")
        assert (row["id"], row["text"], row["url"], row["date"]) == expected
        assert json.loads(row["extra"]) == {"text_": "not the text", "metadata": {"score": i / 2}}
    (rejected,) = pq.read_table(out / "rejected").to_pylist()
    assert (rejected["id"], rejected["rejected_reason"]) == ("none", "no text")


def test_ingest_columns_shipped_config_fits_dolma(tmp_path, ray_cluster, real_data) -> None:
    path = real_data / "web" / "cc_en_head-0091.jsonl"
    words = ["configs/ingest/columns.yaml", f"input={path}", f"output={tmp_path / 'out'}"]
    ingest_documents(load(IngestConfig, words))
    values = [json.loads(line) for line in path.read_text().splitlines()]
    expected = {v["id"]: (v["metadata"]["url"], v["metadata"]["date_download"], "en") for v in values}
    rows = dataset.table(str(tmp_path / "out")).to_pylist()
    assert {row["id"]: (row["url"], row["date"], row["language"]) for row in rows} == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": "contents"}, "no field 'contents', which columns.text names; the nearest is 'content'"),
        ({"text": "content", "url": "url"}, "columns.url names; the nearest is 'metadata.url'"),
        ({"text": "content", "url": "metadata.uri"}, "the nearest is 'metadata.url'"),
        ({"url": "metadata.url"}, "no field 'text'; it has content, doc_id, metadata. Set columns.text"),
        ({"txt": "content"}, "columns.txt is not a column of a document; the nearest is 'text'"),
        ({"text": ""}, "columns.text='' must be the name of a field"),
    ],
)
def test_ingest_columns_reject_invalid_mapping_before_work(tmp_path: Path, columns, message) -> None:
    value = {key: field for key, field in record(1).items() if key != "text"}
    (tmp_path / "a.jsonl").write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        ingest_documents(
            IngestConfig(input=str(tmp_path / "a.jsonl"), output=str(tmp_path / "out"), columns=columns)
        )
    assert not (tmp_path / "out").exists()


def test_ingest_columns_reject_html_input(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><body><p>Text</p></body></html>")
    with pytest.raises(UserError, match="columns is for JSONL and Parquet"):
        ingest_documents(
            IngestConfig(
                input=str(tmp_path / "a.html"), output=str(tmp_path / "out"), columns={"text": "content"}
            )
        )
