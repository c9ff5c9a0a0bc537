"""The ingest stage: documents, rejected records with their reasons, and unusable input."""

from __future__ import annotations

import codecs
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core import dataset
from safety_ray.core.errors import UserError
from safety_ray.ingest.readers import list_files, read


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def reasons(folder: Path) -> dict[str, str]:
    rows = pq.read_table(folder / "rejected").to_pylist()
    return {row["id"]: row["rejected_reason"] for row in rows}


def test_ingest_stage_rejects_each_bad_record_with_reason(tmp_path, ray_cluster) -> None:
    web = tmp_path / "web"
    web.mkdir()
    (web / "a.jsonl").write_bytes(
        line(id="good", text="A page about soup.", url="http://a.example.com", mood="calm", score=3.5)
        + line(id="null", text=None, token_count="many")
        + line(id="empty", text="  \n ")
        + line(id="missing", title="no text here")
        + line(id="number", text=7)
        + line(id="good", text="The same id once more.")
        + b'{"id": "utf8", "text": "broken \xff byte"}\n'
        + b"not json at all\n"
        + b"[1, 2]\n"
        + line(id="long", text="x" * 20_000)
        + b'{"id": "half", "text": "half a pair \\ud800"}\n'
        + line(text="No id of its own.", url="http://b.example.com")
        + line(id="odd", text="Two odd values.", token_count=2.5, label=300)
        + b'{"id": "infinite", "text": "One odd value.", "token_count": 1e999}\n'
    )
    packed = gzip.compress(
        b"".join(line(id=f"z{i}", text=f"Page {i} of the archive. " * 40) for i in range(200))
    )
    (web / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (web / "c.jsonl.zst").write_bytes(zstandard.compress(line(id="zstd", text="From a zstd file.")))
    column: dict[str, Any] = {
        "id": ["p1", "p2", "good"],
        "text": ["Parquet page.", None, "Third of that id."],
    }
    days = pa.array([0, 4_000_000, 0], pa.int32()).cast(pa.date32())  # one is beyond the year 9999
    pq.write_table(pa.table(column | {"n": [1, 2, 3], "day": days}), web / "d.parquet")
    record = ingest_documents(
        IngestConfig(input=str(web), output=str(tmp_path / "out"), max_bytes=10_000, max_rejected=1.0)
    )
    rows = {row["id"]: row for row in dataset.table(str(tmp_path / "out")).to_pylist()}
    kept_ids = {key for key in rows if not key.startswith("z")}
    assert {"good", "p1", "odd", "infinite"} <= kept_ids
    assert len(kept_ids) == 5  # and the row whose id is a hash of its URL and text
    assert rows["zstd"]["text"] == "From a zstd file."
    assert rows["good"]["text"] == "A page about soup."
    assert json.loads(rows["good"]["extra"]) == {"mood": "calm", "score": 3.5}
    assert json.loads(rows["p1"]["extra"]) == {"n": 1, "day": "1970-01-01"}
    assert json.loads(rows["odd"]["extra"])["unreadable"].keys() == {"token_count", "label"}
    stored = json.loads((tmp_path / "out/record.json").read_text())
    assert stored["values_unreadable"] == {"day": 1, "label": 1, "token_count": 3}  # also of rejected rows
    reason_of = reasons(tmp_path / "out")
    assert reason_of["null"] == reason_of["missing"] == "no text"
    assert reason_of["empty"] == "empty text"
    assert reason_of["number"] == "text is not a string but int"
    assert reason_of["half"].startswith("text has half a surrogate pair")
    text = " / ".join(reason_of.values())
    for fragment in (
        "not UTF-8 at byte",
        "not JSON",
        "not a JSON object but list",
        "longer than max_bytes=10000",
        "duplicate id 'good'",
        "the file is damaged",
    ):
        assert fragment in text
    assert record["rows_in"] == record["rows_out"] + record["rejected"]
    assert sum(1 for reason in reason_of.values() if reason.startswith("duplicate id")) <= 2
    duplicates = [
        r for r in pq.read_table(tmp_path / "out/rejected").to_pylist() if "duplicate" in r["rejected_reason"]
    ]
    assert len(duplicates) == 2


def test_list_files_accepts_stage_folder_and_glob(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "rejected").mkdir()
    for folder in ("data", "rejected"):
        pq.write_table(pa.table({"id": ["1"], "text": ["t"]}), tmp_path / folder / "x.parquet")
    (tmp_path / "record.json").write_text("{}")
    assert list_files(str(tmp_path)) == [str(tmp_path / "data/x.parquet")]
    assert list_files(str(tmp_path / "data" / "*.parquet")) == [str(tmp_path / "data/x.parquet")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "does not exist"),
        ("a.txt", b"hello", "has no known ending"),
        ("a.jsonl", b"", "is empty"),
        ("a.parquet", b"PAR? no", "not a readable Parquet file"),
        ("a.jsonl", b'{"id": "1", "body": "x"}\n', "has no field 'text'; it has body, id"),
    ],
)
def test_ingest_stage_rejects_unusable_input_before_work(tmp_path, name, content, message) -> None:
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        ingest_documents(IngestConfig(input=str(tmp_path / (name or "gone")), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_list_files_rejects_empty_folder(tmp_path) -> None:
    (tmp_path / "web").mkdir()
    with pytest.raises(UserError, match="empty folder"):
        list_files(str(tmp_path / "web"))


def test_ingest_stage_raises_for_too_many_rejected_records(tmp_path, ray_cluster) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        line(id="1", text="fine") + line(id="2", text="") + line(id="3", text="")
    )
    with pytest.raises(UserError, match=r"2 of 3 rows were rejected.*most common reason is: empty text"):
        ingest_documents(IngestConfig(input=str(tmp_path / "a.jsonl"), output=str(tmp_path / "out")))


def test_jsonl_reader_rejects_only_the_oversized_line(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(id="1", text="a") + line(id="2", text="x" * 10_000_000) + line(id="3", text="c"))
    raws = list(read(str(path), 4_000_000))
    assert [raw.value["id"] if raw.value else raw.problem for raw in raws] == [
        "1", "the line is longer than max_bytes=4000000", "3",
    ]  # fmt: skip
    assert [raw.position for raw in raws] == [1, 2, 3]


def test_jsonl_reader_keeps_first_line_after_byte_order_mark(tmp_path) -> None:
    for name, lines in (("a", line(id="1", text="a")), ("b", b"\n"), ("c", b"")):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(codecs.BOM_UTF8 + lines + line(id="2", text="b"))
        raws = list(read(str(path), 1000))
        assert [raw.value["id"] for raw in raws if raw.value] == (["1", "2"] if name == "a" else ["2"])
        assert not any(raw.problem for raw in raws)


def test_jsonl_reader_reads_zstd_of_the_largest_window(tmp_path) -> None:
    """A frame as `zstd --long=31` writes it: window of 2^31 bytes, then one uncompressed block."""
    lines = line(id="1", text="a") + line(id="2", text="b")
    header = b"\x28\xb5\x2f\xfd" + bytes([0, (31 - 10) << 3])
    block = (len(lines) << 3 | 1).to_bytes(3, "little")
    (tmp_path / "a.jsonl.zst").write_bytes(header + block + lines)
    raws = list(read(str(tmp_path / "a.jsonl.zst"), 1000))
    assert [raw.value and raw.value["id"] for raw in raws] == ["1", "2"]


def test_list_files_finds_literal_path_before_glob(tmp_path) -> None:
    folder = tmp_path / "crawl[1]"
    folder.mkdir()
    for name in ("a[2].jsonl", "a2.jsonl", "b?.jsonl"):
        (folder / name).write_bytes(line(id=name, text="a"))
    assert list_files(str(folder)) == [str(folder / name) for name in ("a2.jsonl", "a[2].jsonl", "b?.jsonl")]
    for name in ("a[2].jsonl", "b?.jsonl"):
        assert list_files(str(folder / name)) == [str(folder / name)]
        assert [raw.value and raw.value["id"] for raw in read(str(folder / name), 1000)] == [name]
    (tmp_path / "crawl1").mkdir()
    (tmp_path / "crawl1" / "c.jsonl").write_bytes(line(id="c", text="c"))
    assert list_files(str(tmp_path / "craw[kl]1" / "*.jsonl")) == [str(tmp_path / "crawl1" / "c.jsonl")]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_jsonl_reader_keeps_lines_before_truncation(tmp_path, pack) -> None:
    path = tmp_path / "a.jsonl.packed"
    members = [pack(b"".join(line(id=f"{m}.{i}", text="x" * i) for i in range(40))) for m in range(3)]
    path.write_bytes(b"".join(members))
    complete = list(read(str(path), 10_000, "jsonl"))
    ids = [f"{m}.{i}" for m in range(3) for i in range(40)]
    assert [raw.value["id"] for raw in complete if raw.value] == ids
    assert [raw.position for raw in complete] == list(range(1, 121))
    path.write_bytes(b"".join(members)[:-20])
    *kept, last = read(str(path), 10_000, "jsonl")
    assert [raw.value["id"] for raw in kept if raw.value] == ids[: len(kept)]
    assert len(kept) >= 80
    begin = len(members[0] + members[1])
    assert last.position == len(kept) + 1
    assert last.problem is not None
    assert last.problem.startswith("the file is damaged: the file ends inside the")
    assert last.problem.endswith(f"begins at byte {begin:,}")


def test_ingest_stage_reads_real_crawl_text(tmp_path, ray_cluster, real_data) -> None:
    source = real_data / "web" / "cc_en_head-0091.jsonl"
    ingest_documents(IngestConfig(input=str(source), output=str(tmp_path / "out")))
    rows = dataset.table(str(tmp_path / "out"))
    expected = sorted(json.loads(text)["text"] for text in source.read_text().splitlines())
    assert sorted(rows.column("text").to_pylist()) == expected


def test_ingest_stage_reads_file_whose_name_is_not_unicode(tmp_path: Path, ray_cluster: None) -> None:
    (tmp_path / "in").mkdir()
    page = b"<html><body><p>A page about soup and bread, and how they are made.</p></body></html>"
    with open(os.fsencode(tmp_path / "in") + b"/caf\xe9.html", "wb") as file:
        file.write(page)
    config = IngestConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out"))
    record = ingest_documents(config)
    assert (record["rows_out"], record["rejected"]) == (1, 0)
    assert ingest_documents(config) == record
    [row] = dataset.table(str(tmp_path / "out")).to_pylist()
    assert row["source_file"].endswith("caf�.html")
