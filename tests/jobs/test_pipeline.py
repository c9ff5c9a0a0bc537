"""A small pipeline on a user's own documents with their own classifier, up to token rows.

tests/slow/test_whole_pipeline.py runs all stages.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_pipeline import DEMO, check_summary, small

from jobs.pipeline import PipelineConfig, config_of, run_pipeline, stages_of
from safety_ray.core import dataset
from safety_ray.core.config import load
from safety_ray.core.errors import UserError

NAMES = ["ingest", "score", "rewrite", "report", "pack"]
DOCUMENTS = 120


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, corpus: Path, classifier: Path) -> PipelineConfig:
    folder = tmp_path_factory.mktemp("pipeline")
    rows = dataset.table(str(corpus), ["id", "text"]).to_pylist()
    chosen = rows[:: len(rows) // DOCUMENTS][:DOCUMENTS]
    (folder / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    words = ["rewrite.engine.kind=template", "rewrite.attempts=1", "until=pack"]
    return small(folder / "runs", f"input={folder}/pages.jsonl", f"classifier={classifier}", *words)


@pytest.fixture(scope="module")
def output(config: PipelineConfig, ray_cluster: None) -> Path:
    run_pipeline(config)
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
    run_pipeline(config)
    after = {name: (output / name / "record.json").stat().st_mtime_ns for name in NAMES}
    assert before == after


def test_pipeline_plan_shows_finished_and_selected_stages(
    output: Path, config: PipelineConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_pipeline(replace(config, plan=True, until="", from_="report")) == {}
    table = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    state = {words[0]: words[1:3] for words in table}
    assert state["score"] == ["finished", "-"]
    assert state["report"] == ["finished", "skip"]
    assert state["pretrain"] == ["absent", "run"]
    assert list(state)[:3] == ["ingest", "score", "rewrite"]


def test_pipeline_only_repeats_one_stage_on_finished_inputs(output: Path, config: PipelineConfig) -> None:
    shutil.rmtree(output / "report")
    summary = run_pipeline(replace(config, until="", only=["report"]))
    assert [row["name"] for row in summary["stages"]] == ["report"]
    assert (output / "report" / "card.html").exists()


def test_pipeline_from_rejects_unfinished_earlier_stage(output: Path, config: PipelineConfig) -> None:
    with pytest.raises(
        UserError, match=r"evaluate reads .*/pretrain, which is not finished.* until=pretrain"
    ):
        run_pipeline(replace(config, until="", from_="evaluate"))


def test_pipeline_optional_stages_take_their_place_and_feed_others(tmp_path: Path) -> None:
    words = [
        DEMO, f"output={tmp_path}/runs", "audit.labels=label", "audit.wanted.recall=0.9",
        "finetune.chats=examples/chats.jsonl", "label.engine.kind=openai", "label.engine.model=m",
        "label.engine.base_url=http://127.0.0.1:1/v1", "plan=true",
    ]  # fmt: skip
    config = load(PipelineConfig, words)
    stages = {stage.name: stage for stage in stages_of(config)}
    assert list(stages) == [
        "corpus", "ingest", "label", "fit", "score", "audit", "rewrite", "report", "pack", "pretrain",
        "finetune", "evaluate", "endpoint",
    ]  # fmt: skip
    made = {name: config_of(stage, config) for name, stage in stages.items()}
    assert made["fit"].labelled == f"{tmp_path}/runs/label"
    readers = {made[name].thresholds_from for name in ("rewrite", "report", "pack")}
    assert readers == {f"{tmp_path}/runs/audit"}
    assert made["endpoint"].model == made["evaluate"].model == f"{tmp_path}/runs/finetune"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["only=[score,raport]"], "only: unknown stage 'raport', did you mean 'report'"),
        (["only=[score]", "until=pack"], "only: cannot be combined with from or until"),
        (["from=pack", "until=fit"], "from=pack: this stage is after until=fit"),
        (["only=[finetune]"], "only: unknown stage 'finetune'"),
        (
            ["pretrain.learning_rate=1"],
            "the section 'pretrain': unknown setting 'learning_rate'; the nearest is",
        ),
        (["score.documents=x"], "score.documents: the pipeline sets this itself"),
        (["pack.tag_rate=2"], "tag_rate"),
        (["trane.lr=1"], "unknown setting 'trane"),
        (["until=pretain"], "until: unknown stage 'pretain', did you mean 'pretrain'"),
        (["input=/no/such/folder"], "the input '/no/such/folder' does not exist"),
    ],
)
def test_pipeline_rejects_invalid_settings_before_first_stage(tmp_path, words, message) -> None:
    with pytest.raises(UserError, match=message):
        run_pipeline(load(PipelineConfig, [DEMO, f"output={tmp_path}/runs", *words]))
    assert not (tmp_path / "runs").exists()


def test_pipeline_on_url_runs_until_endpoint_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    words = [DEMO, "output=memory://pipeline", "plan=true"]
    assert run_pipeline(load(PipelineConfig, [*words, "until=evaluate"])) == {}
    assert "pack          absent       run" in capsys.readouterr().out
    with pytest.raises(UserError, match="model=memory://pipeline/pretrain: the endpoint reads no URL"):
        run_pipeline(load(PipelineConfig, words))
