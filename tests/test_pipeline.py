"""The whole loop, small: every stage for real, on the shipped corpus, up to an endpoint that answers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from safety_ray.config import load
from safety_ray.errors import UserError
from safety_ray.pipeline import STAGES, PipelineConfig, run

DEMO = "configs/pipeline/demo.yaml"
SMALL = [
    "corpus.documents=560", "fit.windows=0", "fit.per_family=1", "pack.vocab_size=1024",
    "pack.row_length=128", "pretrain.model.hidden_size=64", "pretrain.model.layers=2",
    "pretrain.model.heads=2",
    "pretrain.model.kv_heads=2", "pretrain.model.intermediate_size=128", "pretrain.max_steps=40",
    "evaluate.max_documents=40", "evaluate.max_prompts=6", "evaluate.max_new_tokens=8",
    "endpoint.max_tokens=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "runs"
    run(load(PipelineConfig, [DEMO, f"output={folder}", *SMALL]))
    return folder


def test_every_stage_ran_and_no_row_was_lost(output: Path) -> None:
    summary = json.loads((output / "summary.json").read_text())
    stages = {row["name"]: row for row in summary["stages"]}
    assert list(stages) == [stage.name for stage in STAGES]
    assert stages["ingest"]["rows_out"] == stages["score"]["rows_in"] == stages["score"]["rows_out"] == 560
    assert (
        stages["rewrite"]["rows_in"] == stages["rewrite"]["rows_out"] + stages["rewrite"]["set_aside"] > 100
    )
    assert set(summary["results"]) == {
        "p_tag_auroc", "unsafe_rate_beam", "unsafe_rate_safebeam", "perplexity_safe",
    }  # fmt: skip
    assert 0 <= summary["results"]["p_tag_auroc"] <= 1
    assert summary["results"]["perplexity_safe"] < 1024  # better than guessing among the vocabulary
    assert summary["endpoint"]["plain"]["text"]
    for mode in ("stop", "safebeam"):
        assert summary["endpoint"][mode]["safety"]["mode"] == mode
    for stage in STAGES:
        record = json.loads((output / stage.name / "record.json").read_text())
        assert record["config"]["output"].endswith(stage.name)
        assert record["versions"]["ray"]


def test_a_training_token_is_traced_to_its_web_document(output: Path) -> None:
    from safety_ray import dataset

    documents = set(dataset.table(str(output / "ingest"), ["id"]).column("id").to_pylist())
    rows = dataset.table(str(output / "pack"), ["spans"]).column("spans").to_pylist()
    spans = [span for row in rows for span in row]
    assert {span["recipe"] for span in spans} == {"raw", "rephrase", "refuse", "moralize"}
    assert {span["source_id"] for span in spans} <= documents


def test_a_second_run_skips_everything(output: Path) -> None:
    before = {stage.name: (output / stage.name / "record.json").stat().st_mtime_ns for stage in STAGES}
    started = time.time()
    run(load(PipelineConfig, [DEMO, f"output={output}", *SMALL]))
    after = {stage.name: (output / stage.name / "record.json").stat().st_mtime_ns for stage in STAGES}
    assert before == after
    print(f"skipped everything in {time.time() - started:.1f} s")


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
        (["input=/no/such/folder"], "the input '/no/such/folder' does not exist"),
    ],
)
def test_a_setting_that_does_not_fit_fails_before_the_first_stage(tmp_path, words, message) -> None:
    with pytest.raises(UserError, match=message):
        run(load(PipelineConfig, [DEMO, f"output={tmp_path}/runs", *words]))
    assert not (tmp_path / "runs").exists()
