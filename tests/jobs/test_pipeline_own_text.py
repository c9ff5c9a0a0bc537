"""The plan for a user's own documents: which classifier, which stages, and where the run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_pipeline import DEMO

from jobs.pipeline import PipelineConfig, check_evaluation, config_of, run_pipeline, selected, stages_of
from safety_ray.core import dataset
from safety_ray.core.config import load
from safety_ray.core.errors import UserError

TEMPLATE = "rewrite.engine.kind=template"
LATER = ["rewrite", "report", "pack", "pretrain", "evaluate", "endpoint"]
LABEL = [
    "label.engine.kind=openai", "label.engine.model=m", "label.engine.base_url=http://127.0.0.1:1/v1"
]  # fmt: skip


@pytest.fixture
def pages(tmp_path: Path) -> str:
    path = tmp_path / "pages.jsonl"
    path.write_text('{"text": "A quiet soup recipe."}\n')
    return str(path)


def plan(tmp_path: Path, *words: str) -> tuple[list[str], list[str], dict[str, Any]]:
    """Return the names of all stages, of those that would run, and the configs by name."""
    pipeline = load(PipelineConfig, [DEMO, f"output={tmp_path}/runs", *words])
    stages = stages_of(pipeline)
    configs = {stage.name: config_of(stage, pipeline) for stage in stages}
    return list(configs), [stage.name for stage in selected(pipeline, stages)], configs


def test_pipeline_own_text_uses_default_classifier(tmp_path: Path, pages: str) -> None:
    names, chosen, configs = plan(tmp_path, f"input={pages}", TEMPLATE)
    assert names == chosen == ["ingest", "score", *LATER]
    assert {configs[name].classifier for name in ("score", "rewrite", "evaluate")} == {"default"}
    assert configs["ingest"].input == pages
    assert configs["evaluate"].documents == [f"{tmp_path}/runs/pack/heldout"]


def test_pipeline_own_text_ends_at_early_report_card(tmp_path: Path, pages: str) -> None:
    names, chosen, configs = plan(tmp_path, f"input={pages}", "report.title=Mine")
    assert names == ["ingest", "score", "report-scored", *LATER]
    assert chosen == ["ingest", "score", "report-scored"]
    early, late = configs["report-scored"], configs["report"]
    assert (early.rewritten, early.title, late.title) == ("", "Mine", "Mine")
    assert early.output == f"{tmp_path}/runs/report-scored"
    assert late.output == f"{tmp_path}/runs/report"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("until=score", ["ingest", "score"]),
        ("until=report", ["ingest", "score", "report-scored"]),
        ("only=[score,rewrite,pack]", ["score"]),
        ("from=pack", ["pack", "pretrain", "evaluate", "endpoint"]),
        ("only=[report]", ["report"]),
    ],
)
def test_pipeline_own_text_ends_before_rewrite_only(
    tmp_path: Path, pages: str, word: str, expected: list[str]
) -> None:
    assert plan(tmp_path, f"input={pages}", word)[1] == expected


@pytest.mark.parametrize("word", ["from=rewrite", "only=[rewrite]"])
def test_pipeline_own_text_rewrite_needs_rewriter(tmp_path: Path, pages: str, word: str) -> None:
    with pytest.raises(
        UserError, match=r"no rewriter is named; run the same command with rewrite\.engine\.kind"
    ):
        plan(tmp_path, f"input={pages}", word)


def test_pipeline_own_text_fits_classifier_if_section_asks(tmp_path: Path, pages: str) -> None:
    names, _, configs = plan(tmp_path, f"input={pages}", TEMPLATE, "fit.windows=0")
    assert names == ["corpus", "ingest", "fit", "score", *LATER]
    assert configs["score"].classifier == f"{tmp_path}/runs/fit"
    assert configs["evaluate"].documents[1:] == [f"{tmp_path}/runs/corpus/heldout"]
    names, _, configs = plan(tmp_path, f"input={pages}", TEMPLATE, *LABEL)
    assert names == ["ingest", "label", "fit", "score", *LATER], "nothing reads the corpus"
    assert configs["fit"].labelled == f"{tmp_path}/runs/label"


@pytest.mark.parametrize("classifier", ["runs/other/fit", "someone/classifier", "default"])
def test_pipeline_named_classifier_replaces_fit(tmp_path: Path, pages: str, classifier: str) -> None:
    names, _, configs = plan(tmp_path, f"classifier={classifier}")
    assert names == ["corpus", "ingest", "score", *LATER]
    assert {configs[name].classifier for name in ("score", "rewrite", "evaluate")} == {classifier}
    assert configs["evaluate"].documents[1:] == [f"{tmp_path}/runs/corpus/heldout"]
    names, _, configs = plan(tmp_path, f"classifier={classifier}", f"input={pages}", TEMPLATE)
    assert names == ["ingest", "score", *LATER]
    assert configs["score"].classifier == classifier


@pytest.mark.parametrize("words", [["fit.windows=0"], LABEL])
def test_pipeline_named_classifier_excludes_fit_section(tmp_path: Path, words: list[str]) -> None:
    section = words[0].split(".")[0]
    with pytest.raises(
        UserError, match=f"{section}: no classifier is fitted with classifier=default; remove"
    ):
        plan(tmp_path, "classifier=default", *words)


def test_pipeline_plan_names_rewriters_and_classifier(
    tmp_path: Path, pages: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [DEMO, f"output={tmp_path}/runs", f"input={pages}", "plan=true"]
    assert run_pipeline(load(PipelineConfig, words)) == {}
    table, sentence = capsys.readouterr().out.strip().split("\n\n")
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:]}
    assert rows["ingest"] == ["absent", "run", pages]
    assert rows["score"] == ["absent", "run", "ingest,", "default"]
    assert rows["report-scored"] == ["absent", "run", "score"]
    assert rows["rewrite"][:2] == ["absent", "-"]
    assert sentence.startswith("Nothing would be rewritten, because no rewriter is named; the same command")
    for kind in ("vllm rewrite.engine.model=", "openai rewrite.engine.model=", "template, which replaces"):
        assert f"rewrite.engine.kind={kind}" in sentence
    run_pipeline(load(PipelineConfig, [*words, TEMPLATE]))
    assert "Nothing" not in capsys.readouterr().out


@pytest.mark.parametrize("scores", [(0, 0), (0, 5)])
def test_pipeline_checks_heldout_documents_before_training(
    tmp_path: Path, pages: str, scores: tuple[int, int]
) -> None:
    pipeline = load(PipelineConfig, [DEMO, f"output={tmp_path}/runs", f"input={pages}", TEMPLATE])
    stages = stages_of(pipeline)
    configs = {stage.name: config_of(stage, pipeline) for stage in stages}
    texts = ["How to make a quiet soup with many more words than a prompt has at all times. " * 9] * 2
    table = pa.table({"id": ["a", "b"], "text": texts, "score": scores})
    dataset.write_table(table, f"{pipeline.output}/pack/heldout/heldout.parquet")
    if max(scores):
        check_evaluation(configs)
        return
    with pytest.raises(UserError, match=r"^evaluate: .* 0 unsafe ones .* \(until=pretrain\)\.$"):
        check_evaluation(configs)
    configs.pop("evaluate")  # a run with until=pretrain has no such config
    check_evaluation(configs)


def test_pipeline_rejects_named_classifier_before_first_stage(tmp_path: Path, pages: str) -> None:
    words = [DEMO, f"output={tmp_path}/runs", f"input={pages}", f"classifier={tmp_path}"]
    with pytest.raises(UserError, match="has no classifier"):
        run_pipeline(load(PipelineConfig, words))
    assert not (tmp_path / "runs").exists()
