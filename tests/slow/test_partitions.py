"""Stages that run in partitions write the rows of a run without partitions; merges and next stages read them.

The documents of a crawl that fetched pages twice: a page and its copy are in different partitions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.ingest import IngestConfig, ingest_documents
from jobs.merge import MergeConfig, merge_partitions
from jobs.rewrite import RewriteConfig, rewrite_documents
from jobs.score import ScoreConfig, score_documents
from safety_ray.core import dataset
from safety_ray.llm.engine import EngineConfig

pytestmark = pytest.mark.covers("jobs.merge", "jobs.ingest", "jobs.score", "safety_ray.core.partition")
FILES, PAGES = 4, 60
Run = Callable[[Any], dict[str, Any]]


def crawl(folder: Path, corpus: Path) -> Path:
    """Write four JSONL files; some pages are also in the next file, under the same id."""
    rows = dataset.table(str(corpus), ["id", "text"]).to_pylist()
    pages = rows[:: len(rows) // PAGES][:PAGES]
    pages[0]["url"] = "http://example.org/"  # a column that only the first file has
    files: list[list[dict[str, str]]] = [[] for _ in range(FILES)]
    for number, page in enumerate(pages):
        files[number % FILES].append(page)
        if number % 5 == 0 and number % FILES < FILES - 1:
            files[number % FILES + 1].append(page | {"text": f"{page['text']} Fetched again."})
    folder.mkdir()
    for number, lines in enumerate(files):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{number}.jsonl").write_text(text)
    return folder


def in_partitions(config: Any, run: Run, output: str, number: int) -> dict[str, Any]:
    for index in range(number, 0, -1):  # in any order
        run(replace(config, output=output, partition=f"{index}/{number}"))
    return merge_partitions(MergeConfig(output=output))


def rows_of(output: str, columns: list[str]) -> list[dict[str, Any]]:
    return sorted(dataset.table(output, columns).to_pylist(), key=lambda row: str(row["id"]))


def rejected(output: str) -> list[tuple[str, str]]:
    paths = [path for path in Path(output).rglob("*.parquet") if "rejected" in path.parts]
    found = [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]
    return sorted((str(row["id"]), row["rejected_reason"]) for row in found)


def test_partitions_of_stages_write_what_one_run_writes(
    tmp_path: Path, corpus: Path, ray_cluster: None
) -> None:
    source = crawl(tmp_path / "crawl", corpus)

    def output(name: str) -> str:
        return str(tmp_path / name)

    ingest = IngestConfig(input=str(source), output=output("documents"))
    whole = ingest_documents(ingest)
    parts = in_partitions(ingest, ingest_documents, output("documents-parts"), 2)
    assert whole["rows_out"] == PAGES
    for key in ("rows_in", "rows_out", "rejected", "files", "files_passed_over", "fingerprint"):
        assert parts[key] == whole[key], key
    columns = ["id", "text", "url", "source_file", "source_position"]
    documents = rows_of(output("documents-parts"), columns)
    assert documents == rows_of(output("documents"), columns)
    assert rejected(output("documents-parts")) == rejected(output("documents"))
    assert not any("Fetched again" in row["text"] for row in documents), "the first of two pages is kept"

    # A merge that is interrupted before its record is repeated, with the rows that are rejected by then.
    Path(output("documents-parts"), "record.json").unlink()
    assert merge_partitions(MergeConfig(output=output("documents-parts")))["rows_out"] == PAGES

    # One file of documents for each partition of `score`, however many tasks wrote them.
    shutil.copytree(output("documents-parts"), output("copy"))
    score = ScoreConfig(documents=output("copy"), output=output("scored"), actors=1)
    whole = score_documents(score)
    parts = in_partitions(score, score_documents, output("scored-parts"), 2)
    for key in ("rows_in", "rows_out", "rejected", "scored_texts", "copies", "fingerprint"):
        assert parts[key] == whole[key], key
    assert parts["tokens"]["read"] == whole["tokens"]["read"]
    scores = ["id", "text", "probs"]
    for part, row in zip(
        rows_of(output("scored-parts"), scores), rows_of(output("scored"), scores), strict=True
    ):
        assert (part["id"], part["text"]) == (row["id"], row["text"])
        # Other texts share the batch of a text, which changes the last bits of its probabilities.
        assert part["probs"] == pytest.approx(row["probs"], abs=0.01)

    rewrite = RewriteConfig(
        scored=output("scored-parts"), output=output("rewritten"), attempts=1,
        actors=1, max_rejected=1.0, engine=EngineConfig(kind="template"),
    )  # fmt: skip
    whole = rewrite_documents(rewrite)
    parts = in_partitions(rewrite, rewrite_documents, output("rewritten-parts"), 2)
    for key in ("rows_in", "rows_out", "rejected", "attempts", "engine", "fingerprint"):
        assert parts[key] == whole[key], key
    texts = ["id", "source_id", "root_id", "recipe", "style", "text"]
    assert whole["rows_out"] > 10
    assert rows_of(output("rewritten-parts"), texts) == rows_of(output("rewritten"), texts)
    assert rejected(output("rewritten-parts")) == rejected(output("rewritten"))
