"""A small pipeline up to token rows, on a user's own documents; tests/slow/ tests the whole pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_pipeline import DEMO, check_summary, small

from safety_ray import dataset
from safety_ray.config import load
from safety_ray.errors import UserError
from safety_ray.pipeline import PipelineConfig, run

NAMES = ["corpus", "ingest", "fit", "score", "rewrite", "report", "pack"]
DOCUMENTS = 120


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> PipelineConfig:
    folder = tmp_path_factory.mktemp("pipeline")
    rows = dataset.table(str(corpus), ["id", "text"]).to_pylist()
    chosen = rows[:: len(rows) // DOCUMENTS][:DOCUMENTS]
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return small(folder / "runs", f"input={folder}/pages.jsonl", "until=pack")


@pytest.fixture(scope="module")
def output(config: PipelineConfig, ray_cluster: None) -> Path:
    run(config)
    return Path(config.output)


def test_pipeline_runs_every_stage_without_losing_rows(output: Path) -> None:
    summary = check_summary(output, NAMES, DOCUMENTS)
    assert summary["results"] == summary["endpoint"] == {}
    assert not (output / "pretrain").exists()


def test_pipeline_traces_training_spans_to_source_documents(output: Path) -> None:
    documents = set(dataset.table(str(output / "ingest"), ["id"]).column("id").to_pylist())
    rows = dataset.table(str(output / "pack"), ["spans"]).column("spans").to_pylist()
    spans = [span for row in rows for span in row]
    assert {span["recipe"] for span in spans} == {"raw", "rephrase", "refuse", "moralize"}
    assert {span["source_id"] for span in spans} <= documents


def test_pipeline_second_run_skips_finished_stages(output: Path, config: PipelineConfig) -> None:
    before = {name: (output / name / "record.json").stat().st_mtime_ns for name in NAMES}
    run(config)
    after = {name: (output / name / "record.json").stat().st_mtime_ns for name in NAMES}
    assert before == after


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["pretrain.learning_rate=1"],
            "the section 'pretrain': unknown setting 'learning_rate'; the nearest is",
        ),
        (["score.documents=x"], "score.documents is set by the pipeline itself"),
        (["pack.tag_rate=2"], "tag_rate"),
        (["trane.lr=1"], "unknown setting 'trane"),
        (["until=pretain"], "until=pretain is no stage; the nearest is 'pretrain'"),
        (["input=/no/such/folder"], "the input '/no/such/folder' does not exist"),
    ],
)
def test_pipeline_rejects_invalid_settings_before_first_stage(tmp_path, words, message) -> None:
    with pytest.raises(UserError, match=message):
        run(load(PipelineConfig, [DEMO, f"output={tmp_path}/runs", *words]))
    assert not (tmp_path / "runs").exists()
