"""A small crawl through the whole job, compared with a plain loop of warcio and trafilatura."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import trafilatura
from archive_writer import HTML, Archive, page
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from jobs.ingest import IngestConfig, ingest_documents
from safety_ray.core import dataset
from safety_ray.core.errors import UserError
from safety_ray.ingest.readers import ENDINGS, format_of, list_files_and_others

PAGES = 400


def crawl(folder: Path) -> dict[str, bytes]:
    """Write four archives of 100 pages and of other records; the last archive is truncated."""
    folder.mkdir()
    archives: dict[str, bytes] = {}
    for part in range(4):
        archive = Archive().info(isPartOf="TEST-2024")
        for number in range(part * 100, part * 100 + 100):
            url = f"http://example.com/{number}"
            archive.add("request", url, b"", (("Host", "example.com"),))
            archive.response(url, page(number))
            if number % 10 == 0:
                archive.response(f"{url}.png", b"\x89PNG", (("Content-Type", "image/png"),))
            if number % 25 == 0:
                archive.response(f"{url}/gone", page(number), HTML, status="404 Not Found")
                archive.add("revisit", url, b"", HTML)
        data = archive.data[: archive.offsets[-1] + 200] if part == 3 else archive.data
        archives[f"part-{part}.warc.gz"] = data
        (folder / f"part-{part}.warc.gz").write_bytes(data)
    return archives


def read_with_libraries(archives: dict[str, bytes]) -> dict[str, tuple[str, str, str]]:
    """Return record id → URL, date and text, by warcio and trafilatura, ignoring damage."""
    documents = {}
    for data in archives.values():
        for record in WarcioIterator(io.BytesIO(data)):
            head, http = record.rec_headers, record.http_headers
            if record.rec_type != "response" or http is None or http.get_statuscode() != "200":
                continue
            if not http.get_header("Content-Type", "").startswith("text/html"):
                continue
            body = record.content_stream().read()
            options = {"include_comments": False, "fast": True, "favor_recall": True}
            text = trafilatura.extract(body, **options)
            url, date = head.get_header("WARC-Target-URI"), head.get_header("WARC-Date")
            documents[head.get_header("WARC-Record-ID")] = (url, date, text)
    return documents


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = dataset.table(str(folder)).to_pylist()
    return rows


def test_ingest_crawl_matches_warcio_and_trafilatura(tmp_path, ray_cluster) -> None:
    archives = crawl(tmp_path / "crawl")
    record = ingest_documents(
        IngestConfig(input=str(tmp_path / "crawl" / "*.warc.gz"), output=str(tmp_path / "out"))
    )
    expected = read_with_libraries(archives)
    rows = rows_of(tmp_path / "out")
    truncated = f"http://example.com/{PAGES - 1}"
    expected = {key: value for key, value in expected.items() if value[0] != truncated}
    assert len(expected) == PAGES - 1
    assert {row["id"]: (row["url"], row["date"], row["text"]) for row in rows} == expected
    assert {row["dump"] for row in rows} == {"TEST-2024"}
    assert {row["language"] for row in rows} == {"en"}
    assert {json.loads(row["extra"])["title"] for row in rows} == {f"Page {i}" for i in range(PAGES - 1)}
    for row in rows[:20]:  # the record is at the row's position
        name = Path(row["source_file"]).name
        again = next(iter(WarcioIterator(io.BytesIO(archives[name][row["source_position"] :]))))
        assert again.rec_headers.get_header("WARC-Record-ID") == row["id"]
    rejected = pq.read_table(tmp_path / "out/rejected").to_pylist()
    reasons = [row["rejected_reason"] for row in rejected]
    assert reasons.count("content type 'image/png' is neither HTML nor plain text") == 40
    assert reasons.count("HTTP status 404") == 16
    broken = [row for row in rejected if re.search("damaged|truncated", row["rejected_reason"])]
    assert broken
    assert {Path(row["source_file"]).name for row in broken} == {"part-3.warc.gz"}
    assert all(row["source_position"] > 0 and row["source_file"] for row in rejected)
    assert len(rejected) == 56 + len(broken)
    assert record["rows_in"] == record["rows_out"] + record["rejected"] == len(rows) + len(rejected)
    assert record["records_passed_over"] == {"request": PAGES, "revisit": 16, "warcinfo": 4}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "data", "record.json", "rejected",
    ]  # fmt: skip


def test_ingest_ids_are_independent_of_run_file_and_order(tmp_path, ray_cluster) -> None:
    """HTML files have no ids; one of them is there twice."""
    head = "<link rel=canonical href='http://example.com/{}'>"
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, names in ((first, "abcdef"), (second, "fedcba")):
        folder.mkdir()
        for number, name in enumerate(names):
            (folder / f"{name}.html").write_text(page(number, head=head.format(number)))
        (folder / "twice.html").write_text(page(0, head=head.format(0)))
    runs = []
    for number, folder in enumerate((first, second, first)):
        out = tmp_path / f"out{number}"
        ingest_documents(IngestConfig(input=str(folder), output=str(out)))
        runs.append({row["id"]: (row["url"], row["text"]) for row in rows_of(out)})
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 6
    (rejected,) = pq.read_table(tmp_path / "out0/rejected").to_pylist()
    assert rejected["rejected_reason"].startswith("duplicate id")


def test_ingest_format_follows_file_name_or_setting(tmp_path, ray_cluster) -> None:
    names = {
        **dict.fromkeys(("a.warc", "a.warc.gz", "a.warc.zst"), "warc"),
        **dict.fromkeys(("a.warc.wet.gz", "a.wet"), "wet"),
        **dict.fromkeys(("A.HTML.gz", "b.htm"), "html"),
        "a.ndjson.zst": "jsonl",
        "a.parquet": "parquet",
        **dict.fromkeys(("a.warc.wat.gz", "a.txt", "gz")),
    }
    assert {name: format_of(name) for name in names} == names
    assert {".warc.zst", ".wet.gz", ".html", ".parquet"} < set(ENDINGS)
    archive = Archive().response("http://example.com/1", page(1))
    (tmp_path / "crawl.bin").write_bytes(archive.data)
    with pytest.raises(UserError, match=r"crawl.bin' has no known ending .* format=jsonl\|parquet\|warc"):
        list_files_and_others(str(tmp_path / "crawl.bin"))
    record = ingest_documents(
        IngestConfig(input=str(tmp_path / "crawl.bin"), output=str(tmp_path / "out"), format="warc")
    )
    assert record["rows_out"] == 1
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.warc.gz").write_bytes(archive.data)
    (tmp_path / "web/b.warc.wat.gz").write_bytes(archive.data)
    assert list_files_and_others(str(tmp_path / "web")) == ([str(tmp_path / "web/a.warc.gz")], 1)


def test_ingest_real_crawl_matches_warcio_and_trafilatura(tmp_path, ray_cluster, real_data) -> None:
    source = real_data / "web" / "*.warc*.gz"
    record = ingest_documents(IngestConfig(input=str(source), output=str(tmp_path / "out")))
    rows = rows_of(tmp_path / "out")
    archives = {
        name: (real_data / "web" / name).read_bytes() for name in ("whirlwind.warc.gz", "sample-0000.warc.gz")
    }
    expected = {key: text for key, (_, _, text) in read_with_libraries(archives).items() if text}
    assert {row["id"]: row["text"] for row in rows if row["id"] in expected} == expected
    assert record["files"] == 3
    assert record["files_passed_over"] == 1
    wet = [row for row in rows if row["source_file"].endswith(".wet.gz")]
    assert [row["language"] for row in wet] == ["es"]
