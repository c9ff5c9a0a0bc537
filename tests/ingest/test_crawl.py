"""A small crawl through the whole job: several archives, good and bad, beside the libraries' own loop."""

from __future__ import annotations

import io
import json
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
    """Four archives of 100 pages with all that a crawl holds beside pages; the last one is cut off."""
    folder.mkdir()
    made: dict[str, bytes] = {}
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
        made[f"part-{part}.warc.gz"] = data
        (folder / f"part-{part}.warc.gz").write_bytes(data)
    return made


def by_the_libraries(archives: dict[str, bytes]) -> dict[str, tuple[str, str, str]]:
    """Record id → URL, date and text, by warcio and trafilatura with no care for anything broken."""
    found = {}
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
            where, when = head.get_header("WARC-Target-URI"), head.get_header("WARC-Date")
            found[head.get_header("WARC-Record-ID")] = (where, when, text)
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = dataset.table(str(folder)).to_pylist()
    return rows


def test_ingest_crawl_matches_warcio_and_trafilatura(tmp_path, ray_cluster) -> None:
    archives = crawl(tmp_path / "crawl")
    record = ingest_documents(
        IngestConfig(input=str(tmp_path / "crawl" / "*.warc.gz"), output=str(tmp_path / "out"))
    )
    wanted = by_the_libraries(archives)
    rows = rows_of(tmp_path / "out")
    cut = f"http://example.com/{PAGES - 1}"
    wanted = {key: value for key, value in wanted.items() if value[0] != cut}
    assert len(wanted) == PAGES - 1
    assert {row["id"]: (row["url"], row["date"], row["text"]) for row in rows} == wanted
    assert {row["dump"] for row in rows} == {"TEST-2024"}
    assert {row["language"] for row in rows} == {"en"}
    assert {json.loads(row["extra"])["title"] for row in rows} == {f"Page {i}" for i in range(PAGES - 1)}
    for row in rows[:20]:  # each is found again where its row says
        name = Path(row["source_file"]).name
        again = next(iter(WarcioIterator(io.BytesIO(archives[name][row["source_position"] :]))))
        assert again.rec_headers.get_header("WARC-Record-ID") == row["id"]
    rejected = pq.read_table(tmp_path / "out/rejected").to_pylist()
    reasons = [row["rejected_reason"] for row in rejected]
    assert reasons.count("content type 'image/png' is neither HTML nor plain text") == 40
    assert reasons.count("HTTP status 404") == 16
    broken = [row for row in rejected if "break" in row["rejected_reason"]]
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
    """HTML files have no ids of their own; one of them stands there twice."""
    head = "<link rel=canonical href='http://example.com/{}'>"
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, names in ((one, "abcdef"), (other, "fedcba")):
        folder.mkdir()
        for number, name in enumerate(names):
            (folder / f"{name}.html").write_text(page(number, head=head.format(number)))
        (folder / "twice.html").write_text(page(0, head=head.format(0)))
    found = []
    for number, folder in enumerate((one, other, one)):
        out = tmp_path / f"out{number}"
        ingest_documents(IngestConfig(input=str(folder), output=str(out)))
        found.append({row["id"]: (row["url"], row["text"]) for row in rows_of(out)})
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 6
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
    wanted = {key: text for key, (_, _, text) in by_the_libraries(archives).items() if text}
    assert {row["id"]: row["text"] for row in rows if row["id"] in wanted} == wanted
    assert record["files"] == 3
    assert record["files_passed_over"] == 1
    wet = [row for row in rows if row["source_file"].endswith(".wet.gz")]
    assert [row["language"] for row in wet] == ["es"]
