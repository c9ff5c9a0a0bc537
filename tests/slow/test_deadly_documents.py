"""A document that ends each worker that processes it, as one does that needs more memory than there is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from endpoint import Endpoint, completion
from rewrite_runs import SAFE, rows_of, written_by

from jobs import ingest, pack, rewrite, score
from jobs.ingest import IngestConfig, ingest_documents
from jobs.pack import PackConfig, pack_documents
from jobs.rewrite import rewrite_documents
from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier.batches import ScoreBatch
from safety_ray.core import dataset
from safety_ray.core.dataset import REASON
from safety_ray.core.records import SCORED, schema

pytestmark = pytest.mark.covers(
    "safety_ray.core.worker_deaths",
    "safety_ray.ingest",
    "safety_ray.classifier",
    "safety_ray.pack",
    "safety_ray.rewrite",
    "jobs.ingest",
    "jobs.score",
    "jobs.pack",
    "jobs.rewrite",
)
DEADLY = "the deadly document"
PAGES = 20


def die_at(folder: Path) -> Callable[[str], None]:
    """Return a function that notes the death of its process in `folder` and kills it, at the deadly text."""

    def check(text: str) -> None:
        if DEADLY in text:
            (folder / f"{len(list(folder.iterdir()))}-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    folder.mkdir()
    return check


def rejected(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pads.dataset(output / "rejected").to_table().to_pylist()
    return rows


@pytest.mark.parametrize("archive", [True, False])
def test_ingest_rejects_page_that_ends_its_workers(
    archive: bool, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pages(tmp_path / "in", archive)
    check, read_watched = die_at(tmp_path / "deaths"), ingest.read_watched

    def checked_tables(*settings: Any) -> Iterator[pa.Table]:
        from safety_ray.ingest import pages

        extract = pages.extract

        def checked_extract(html: str, extraction: Any) -> Any:
            check(html)
            return extract(html, extraction)

        pages.extract = checked_extract  # type: ignore[attr-defined]
        try:
            yield from read_watched(*settings)
        finally:
            pages.extract = extract  # type: ignore[attr-defined]

    monkeypatch.setattr(ingest, "read_watched", checked_tables)
    record = ingest_documents(IngestConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out")))
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (PAGES, PAGES - 1, 1)
    (row,) = rejected(tmp_path / "out")
    assert "ended the worker process 2 times" in row[REASON]
    assert len(list((tmp_path / "deaths").iterdir())) == 4, "twice with others, twice alone"
    texts = dataset.table(str(tmp_path / "out")).column("text").to_pylist()
    assert sorted(text.split()[-1] for text in texts) == sorted(
        f"garden{n}." for n in range(PAGES) if n != PAGES // 2
    )


def write_pages(folder: Path, archive: bool) -> None:
    """Write pages, the middle one deadly, as HTML files or in a WARC file."""
    folder.mkdir()
    records = []
    for n in range(PAGES):
        title = DEADLY if n == PAGES // 2 else f"page {n}"
        words = f"Some pupils wrote about water and about trees in the garden{n}."
        html = (
            f"<html><head><title>{title}</title></head><body><article><p>{words}</p></article></body></html>"
        )
        if not archive:
            (folder / f"{n:02}.html").write_text(html)
        http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{html}".encode()
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{n:032}>\r\n"
            f"WARC-Target-URI: http://example.org/{n}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
        )
        records.append(head.encode() + http + b"\r\n\r\n")
    if archive:
        (folder / "pages.warc").write_bytes(b"".join(records))


def test_score_rejects_document_that_ends_its_workers(
    tmp_path: Path, ray_cluster: None, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {n} about a garden" for n in range(40)]
    texts[13] = texts[29] = f"{DEADLY}, twice"
    rows = pa.table({"id": [f"d{n:02}" for n in range(40)], "text": texts})
    dataset.write_table(rows, str(tmp_path / "in" / "rows.parquet"))
    check = die_at(tmp_path / "deaths")

    class DyingScorer(ScoreBatch):
        def score(self, batch: pa.Table) -> pa.Table:
            for text in batch.column("text").to_pylist():
                check(text)
            return super().score(batch)

    monkeypatch.setattr(score, "ScoreBatch", DyingScorer)
    config = ScoreConfig(
        documents=str(tmp_path / "in"), output=str(tmp_path / "out"), classifier=str(classifier),
        batch_rows=8, write_rows=8,
    )  # fmt: skip
    record = score_documents(config)
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (40, 38, 2)
    assert {row["id"] for row in rejected(tmp_path / "out")} == {"d13", "d29"}, "its copy is not tried"
    assert all("ended the worker process 2 times" in row[REASON] for row in rejected(tmp_path / "out"))
    assert len(list((tmp_path / "deaths").iterdir())) == 4, "twice with others, twice alone"
    scored = dataset.table(str(tmp_path / "out"))
    assert set(scored.column("id").to_pylist()) == {f"d{n:02}" for n in range(40)} - {"d13", "d29"}
    assert None not in scored.column("score").to_pylist()


def write_scored(folder: Path, texts: list[str], score: int) -> None:
    """Write documents d00, d01, ... with `score`."""
    rows = [
        {
            "id": f"d{n:02}",
            "text": text,
            "score": score,
            "probs": [0.5] * 6,
            "scored_chunks": [{"end": len(text), "score": score}],
        }
        for n, text in enumerate(texts)
    ]
    dataset.write_table(pa.Table.from_pylist(rows, schema(SCORED)), str(folder / "rows.parquet"))


def test_pack_rejects_document_that_ends_its_workers(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scored(
        tmp_path / "in", [f"{DEADLY if n == 13 else 'a text'} {n} about a garden" for n in range(40)], 4
    )
    check, encode_watched = die_at(tmp_path / "deaths"), pack.encode_watched

    def dying(rows: pa.Table, **settings: Any) -> pa.Table:
        from safety_ray.pack import encode

        encode_rows = encode.encode_rows

        def checked(rows: pa.Table, **settings: Any) -> pa.Table:
            for row in rows.select(["text", REASON]).to_pylist():
                check("" if row[REASON] else row["text"])
            return encode_rows(rows, **settings)

        encode.encode_rows = checked
        try:
            return encode_watched(rows, **settings)
        finally:
            encode.encode_rows = encode_rows

    monkeypatch.setattr(pack, "encode_watched", dying)
    config = PackConfig(
        scored=str(tmp_path / "in"), output=str(tmp_path / "out"), vocab_size=500, row_length=64,
        heldout_share=0.0, shards=1, tag_rate=0.3, max_rejected=0.1,
    )  # fmt: skip
    record = pack_documents(config)
    assert (record["rows_in"], record["rejected"], record["documents"]) == (40, 1, 39)
    (row,) = rejected(tmp_path / "out")
    assert row["id"] == "d13"
    assert "ended the worker process 2 times" in row[REASON]
    assert len(list((tmp_path / "deaths").iterdir())) == 4, "twice with others, twice alone"


@pytest.mark.parametrize("compares", [True, False])
def test_rewrite_rejects_text_that_ends_its_workers(
    compares: bool, tmp_path: Path, ray_cluster: None, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scored(tmp_path / "in", [f"{SAFE} Page {n:02}." for n in range(20)], 2)
    check = die_at(tmp_path / "deaths")

    def write(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        return 200, completion(SAFE + DEADLY * ("Page 13" in body["messages"][-1]["content"]))

    def dying(scorer: Any) -> type:
        class Dying(scorer):  # type: ignore[misc]
            def score(self, batch: pa.Table) -> pa.Table:
                for text in batch.column("text").to_pylist():
                    check(text)
                return super().score(batch)

        return Dying

    monkeypatch.setattr(rewrite, "ScoreAndCompare", dying(rewrite.ScoreAndCompare))
    monkeypatch.setattr(score, "ScoreBatch", dying(ScoreBatch))
    with Endpoint(write) as endpoint:
        config = written_by(
            endpoint, tmp_path / "in", classifier, str(tmp_path / "out"), recipes=["rephrase"],
            accept={"min_similarity": -0.99 if compares else -1.0, "min_facts": 0.0},
            attempts=1, max_rejected=1.0,
            batch_rows=8,
        )  # fmt: skip
        record = rewrite_documents(config)
    assert config.accept.compares == compares
    assert (record["rows_in"], record["rows_out"] + record["rejected"]) == (20, 20)
    deadly = [row for row in rows_of(config.output, "rejected") if "ended the worker" in row[REASON]]
    assert [row["source_id"] for row in deadly] == ["d13"]
    assert len(list((tmp_path / "deaths").iterdir())) == 4, "twice with others, twice alone"
