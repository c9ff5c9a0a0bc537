"""The pipeline on a user's own documents: it ends at a report card, and continues with a rewriter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_pipeline import DEMO

from jobs.pipeline import PipelineConfig, run_pipeline
from safety_ray.core import dataset
from safety_ray.core.config import load

pytestmark = pytest.mark.covers("jobs.pipeline", "safety_ray.report")
DOCUMENTS = 60


def test_pipeline_continues_when_rewriter_is_named(
    tmp_path: Path,
    corpus: Path,
    classifier: Path,
    ray_cluster: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = dataset.table(str(corpus), ["id", "text"]).to_pylist()
    chosen = rows[:: len(rows) // DOCUMENTS][:DOCUMENTS]
    pages, output = tmp_path / "pages.jsonl", tmp_path / "runs"
    pages.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    words = [f"input={pages}", f"output={output}", f"classifier={classifier}", "until=report"]
    config = load(PipelineConfig, [DEMO, *words])

    summary = run_pipeline(config)
    assert [row["name"] for row in summary["stages"]] == ["ingest", "score", "report-scored"]
    assert {path.name for path in output.iterdir()} == {"ingest", "score", "report-scored", "summary.json"}
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("Nothing was rewritten, because no rewriter is named")
    assert f"report card: {output}/report-scored/card.html" in printed
    early = json.loads((output / "report-scored" / "card.json").read_text())
    assert early["outcomes"] == {"all": {"documents": DOCUMENTS, "words": words_of(chosen)}}

    before = {name: (output / name / "record.json").stat().st_mtime_ns for name in ("ingest", "score")}
    summary = run_pipeline(replace(config, rewrite={**config.rewrite, "engine": {"kind": "template"}}))
    assert [row["name"] for row in summary["stages"]] == ["ingest", "score", "rewrite", "report"]
    assert before == {name: (output / name / "record.json").stat().st_mtime_ns for name in before}
    assert "Nothing was rewritten" not in capsys.readouterr().out

    scored = dataset.table(str(output / "score"), ["id", "text", "score"]).to_pylist()
    roots = set(dataset.table(str(output / "rewrite"), ["root_id"]).column("root_id").to_pylist())
    parts = {
        "all": scored,
        "kept": [row for row in scored if row["score"] == 0],
        "rewritten": [row for row in scored if row["score"] > 0 and row["id"] in roots],
        "lost": [row for row in scored if row["score"] > 0 and row["id"] not in roots],
    }
    card = json.loads((output / "report" / "card.json").read_text())
    assert parts["rewritten"]
    for name, part in parts.items():
        found = card["outcomes"][name]
        assert (found["documents"], found["words"]) == (len(part), words_of(part)), name


def words_of(rows: list[dict[str, str]]) -> int:
    return sum(len(row["text"].split()) for row in rows)
