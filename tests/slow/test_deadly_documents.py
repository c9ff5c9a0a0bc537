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

from jobs import ingest, score
from jobs.ingest import IngestConfig, ingest_documents
from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier.batches import ScoreBatch
from safety_ray.core import dataset
from safety_ray.core.dataset import REASON

pytestmark = pytest.mark.covers(
    "safety_ray.core.worker_deaths", "safety_ray.ingest", "safety_ray.classifier", "jobs.ingest", "jobs.score"
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
