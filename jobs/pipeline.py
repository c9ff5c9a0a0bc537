"""All stages in order, from documents to an endpoint. A stage reads the outputs of the stages it names.

    python -m jobs.pipeline configs/pipeline/demo.yaml plan=true
    python -m jobs.pipeline configs/pipeline/demo.yaml until=pack
    python -m jobs.pipeline configs/pipeline/demo.yaml from=pretrain
    python -m jobs.pipeline configs/pipeline/demo.yaml only=[score,report]
    python -m jobs.pipeline configs/pipeline/demo.yaml input=my/pages output=runs/mine

    <output>/<stage>/        the output folder of each stage
    <output>/summary.json    rows and seconds of each stage, main results, answers of the endpoint

All settings of the stages to run are checked before the first one starts. A finished stage is skipped.

With `input`, a user's own documents, no classifier is fitted unless a section `fit` or `label` asks for it,
and nothing is rewritten until the section `rewrite` names an engine: the run ends with a report card of the
scored documents.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from jobs.audit import AuditConfig, audit_scores
from jobs.corpus import CorpusConfig, make_corpus
from jobs.evaluate import EvaluateConfig, choose_samples, evaluate_model
from jobs.finetune import FinetuneConfig, finetune_model
from jobs.fit import FitConfig, fit_classifier
from jobs.ingest import IngestConfig, ingest_documents
from jobs.label import LabelConfig, label_documents
from jobs.pack import PackConfig, pack_documents
from jobs.pretrain import PretrainConfig, pretrain_model
from jobs.report import ReportConfig, write_report_card
from jobs.rewrite import RewriteConfig, rewrite_documents
from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier import packaged
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import artifact, filesystem
from safety_ray.core.config import from_dict, setting
from safety_ray.core.errors import UserError
from safety_ray.core.stages import Stage, check_inputs, plan_table, select
from safety_ray.core.summary import summarize, summary_table
from safety_ray.ingest.readers import list_files
from serve.ask import AskConfig, ask_endpoint

Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """Run the stages in order, from documents to a tested endpoint."""

    output: str = setting("folder that holds one folder per stage, and summary.json")
    input: str = setting("documents: file, folder or glob; empty: the shipped corpus", default="")
    classifier: str = setting(
        f"classifier to use instead of fitting one ({packaged.SETTING}); empty: {packaged.DEFAULT} if there "
        "is an input and no section fit or label, else fit one",
        default="",
    )
    from_: str = setting("first stage to run; earlier stages must be finished", default="")
    until: str = setting("last stage to run; empty: all", default="")
    only: list[str] = setting("run only these stages", factory=list)
    plan: bool = setting("print which stages are finished and which would run, then exit", default=False)
    seed: int = setting("seed of every stage", default=0)
    corpus: dict[str, Any] = setting(
        "settings of corpus (see safety-ray corpus --help)", factory=dict, of=CorpusConfig
    )
    ingest: dict[str, Any] = setting("settings of ingest", factory=dict, of=IngestConfig)
    label: dict[str, Any] = setting("settings of label; empty: skip this stage", factory=dict, of=LabelConfig)
    fit: dict[str, Any] = setting("settings of fit", factory=dict, of=FitConfig)
    score: dict[str, Any] = setting("settings of score", factory=dict, of=ScoreConfig)
    audit: dict[str, Any] = setting("settings of audit; empty: skip this stage", factory=dict, of=AuditConfig)
    rewrite: dict[str, Any] = setting("settings of rewrite", factory=dict, of=RewriteConfig)
    report: dict[str, Any] = setting("settings of report", factory=dict, of=ReportConfig)
    pack: dict[str, Any] = setting("settings of pack", factory=dict, of=PackConfig)
    pretrain: dict[str, Any] = setting("settings of pretrain", factory=dict, of=PretrainConfig)
    finetune: dict[str, Any] = setting(
        "settings of finetune; empty: skip this stage", factory=dict, of=FinetuneConfig
    )
    evaluate: dict[str, Any] = setting("settings of evaluate", factory=dict, of=EvaluateConfig)
    endpoint: dict[str, Any] = setting(
        "settings of endpoint (see python -m serve.ask --help)", factory=dict, of=AskConfig
    )

    def __post_init__(self) -> None:
        for name in ("fit", "label"):
            if self.classifier and getattr(self, name):
                raise UserError(
                    f"{name}: no classifier is fitted with classifier={self.classifier}; remove the section "
                    f"{name}, or set classifier=''."
                )
        if self.only and (self.from_ or self.until):
            raise UserError("only: cannot be combined with from or until.")
        stages = stages_of(self)
        if not named(self, stages):
            raise UserError(f"from={self.from_}: this stage is after until={self.until}.")
        if not selected(self, stages):
            raise UserError(f"rewrite: no rewriter is named; run the same command with {REWRITERS}.")

    @property
    def ready_classifier(self) -> str:
        """The classifier that needs no fit; empty: the stage fit trains one."""
        own = bool(self.input) and not self.fit and not self.label
        return self.classifier or (packaged.DEFAULT if own else "")

    @property
    def rewrites(self) -> bool:
        """Whether a rewriter is named. The shipped corpus needs no name: its rewriter is the template."""
        engine = self.rewrite.get("engine")
        return not self.input or (isinstance(engine, dict) and "kind" in engine)


REWRITERS = (
    "rewrite.engine.kind=vllm rewrite.engine.model=<folder or hub id>, with rewrite.engine.kind=openai "
    "rewrite.engine.model=<name> rewrite.engine.base_url=<url>, or with rewrite.engine.kind=template, which "
    "replaces a text by a general paragraph"
)
"""The settings that name a rewriter, for messages."""


def stages_of(pipeline: PipelineConfig) -> list[Stage]:
    """Return the stages in their order. Optional ones are left out if their section is empty."""
    label, audit, finetune = bool(pipeline.label), bool(pipeline.audit), bool(pipeline.finetune)
    fits = not pipeline.ready_classifier
    corpus = Stage("corpus", CorpusConfig, make_corpus, "labelled documents")
    ingest = Stage(
        "ingest", IngestConfig, ingest_documents, "checked documents",
        {"input": pipeline.input or corpus.output("data")},
    )  # fmt: skip
    labels = Stage("label", LabelConfig, label_documents, "labels by a judge", {"documents": ingest})
    has_corpus = not pipeline.input or (fits and not label)
    fit = Stage(
        "fit", FitConfig, fit_classifier, "harm classifier", {"labelled": labels if label else corpus}
    )
    classifier = fit if fits else pipeline.ready_classifier
    score = Stage(
        "score", ScoreConfig, score_documents, "scores 0-5", {"documents": ingest, "classifier": classifier}
    )
    audited = Stage("audit", AuditConfig, audit_scores, "precision, recall, threshold", {"scored": score})
    # Only an audit with `wanted` chooses a threshold.
    threshold: dict[str, Any] = {"thresholds_from": audited} if pipeline.audit.get("wanted") else {}
    rewrite = Stage(
        "rewrite", RewriteConfig, rewrite_documents, "rephrased, refused, moralized",
        {"scored": score, "classifier": classifier, **threshold},
    )  # fmt: skip
    # A folder of its own, because a finished one cannot be written again when the documents are rewritten.
    early = Stage(
        "report-scored", ReportConfig, write_report_card, "report card before rewriting", {"scored": score},
        section="report",
    )  # fmt: skip
    rewritten = {"scored": score, "rewritten": rewrite}
    report = Stage(
        "report", ReportConfig, write_report_card, "Data Safety Report Card", {**rewritten, **threshold}
    )
    pack = Stage("pack", PackConfig, pack_documents, "token rows with tags", {**rewritten, **threshold})
    pretrain = Stage("pretrain", PretrainConfig, pretrain_model, "model", {"rows": pack})
    finetuned = Stage("finetune", FinetuneConfig, finetune_model, "finetuned model", {"model": pretrain})
    model = finetuned if finetune else pretrain
    # The documents that packing held out, and those of the corpus, which no model is trained on.
    heldout = [pack.output("heldout"), *[corpus.output("heldout")] * has_corpus]
    evaluate = Stage(
        "evaluate", EvaluateConfig, evaluate_model, "metrics",
        # The shipped classifier judges, whose error is known, and not the one whose scores made the tags.
        {"model": model, "classifier": pipeline.classifier or packaged.DEFAULT, "documents": heldout},
    )  # fmt: skip
    endpoint = Stage("endpoint", AskConfig, ask_endpoint, "answers of the endpoint", {"model": model})
    stages = [*[corpus] * has_corpus, ingest, *[labels] * label, *[fit] * fits, score, *[audited] * audit]
    stages += [*[early] * (not pipeline.rewrites), rewrite, report, pack]
    return [*stages, pretrain, *[finetuned] * finetune, evaluate, endpoint]


def selected(pipeline: PipelineConfig, stages: list[Stage]) -> list[Stage]:
    """Return the stages to run. They end before `rewrite` if no rewriter is named."""
    chosen = named(pipeline, stages)
    names = [stage.name for stage in chosen]
    return chosen if pipeline.rewrites or "rewrite" not in names else chosen[: names.index("rewrite")]


def named(pipeline: PipelineConfig, stages: list[Stage]) -> list[Stage]:
    """Return the stages that `from`, `until` and `only` name; all without them."""
    return select(stages, pipeline.from_, pipeline.until, pipeline.only)


def config_of(stage: Stage, pipeline: PipelineConfig) -> Any:
    """Return a stage's config: the folders it reads and writes, the seed, then its own section."""
    fixed: Settings = dict(stage.paths(pipeline.output))
    if "partition" in stage.config.__dataclass_fields__:
        fixed["partition"] = ""
    name = stage.section or stage.name
    section: Settings = getattr(pipeline, name)
    if name == "rewrite":  # of the shipped corpus; an input is not rewritten unless an engine is named
        section = {**section, "engine": {"kind": "template", **section.get("engine", {})}}
    conflicts = sorted(section.keys() & fixed.keys())
    if conflicts:
        raise UserError(f"{name}.{conflicts[0]}: the pipeline sets this itself; remove it.")
    if "seed" in stage.config.__dataclass_fields__:
        fixed["seed"] = pipeline.seed
    if "trust_remote_code" in stage.config.__dataclass_fields__ and pipeline.fit.get("trust_remote_code"):
        fixed["trust_remote_code"] = True  # the classifier is that of fit
    return from_dict(stage.config, {**fixed, **section}, where=f"the section '{name}'")


def run_pipeline(pipeline: PipelineConfig) -> dict[str, Any]:
    """Run the selected stages. Returns and writes the summary (`summarize`)."""
    started = time.time()
    if pipeline.input:  # a wrong path fails here, not after the corpus is written
        list_files(pipeline.input, str(pipeline.ingest.get("format", "auto")))
    stages = stages_of(pipeline)
    chosen = selected(pipeline, stages)
    configs = {stage.name: config_of(stage, pipeline) for stage in chosen}
    if pipeline.plan:
        print(plan_table(stages, chosen, pipeline.output))
        print_unrewritten(pipeline, stages, chosen, "would be")
        return {}
    check_inputs(chosen, pipeline.output)
    check_classifier(pipeline, chosen, configs)
    records: dict[str, dict[str, Any]] = {}
    for number, stage in enumerate(chosen, start=1):
        config = configs[stage.name]
        finished = artifact.is_finished(config.output)
        print(f"[{number}/{len(chosen)}] {stage.name}: {stage.output_kind}  → {config.output}", flush=True)
        if stage.name in ("pretrain", "finetune") and not finished:
            check_evaluation(configs)
        records[stage.name] = stage.run(config)
        if finished:
            print("  finished earlier, skipped", flush=True)
    summary = summarize(records)
    fs, root = filesystem.find(pipeline.output)
    fs.pipe_file(f"{root}/summary.json", json.dumps(summary, indent=1, ensure_ascii=False).encode())
    print(summary_table(summary))
    print(f"\nsummary: {pipeline.output}/summary.json")
    for name in records.keys() & {"report", "report-scored"}:
        print(f"report card: {pipeline.output}/{name}/card.html")
    total = sum(record["seconds"] for record in records.values())
    print(f"{total:.0f} s of work, {time.time() - started:.0f} s in this run")
    print_unrewritten(pipeline, stages, chosen, "was")
    return summary


def print_unrewritten(pipeline: PipelineConfig, stages: list[Stage], chosen: list[Stage], verb: str) -> None:
    """Print how to continue, if the run ends before `rewrite` because no rewriter is named."""
    if len(chosen) < len(named(pipeline, stages)):
        print(
            f"\nNothing {verb} rewritten, because no rewriter is named; the same command continues from here "
            f"with {REWRITERS}."
        )


def check_classifier(pipeline: PipelineConfig, chosen: list[Stage], configs: dict[str, Any]) -> None:
    """Raise UserError if the classifier that is named cannot be loaded by the stages to run.

    `configs`: those of the stages, by name.
    """
    for stage in chosen:
        classifier = stage.reads.get("classifier")
        if isinstance(classifier, str) and not artifact.is_finished(f"{pipeline.output}/{stage.name}"):
            config = configs[stage.name]
            Classifier.load(classifier, "cpu", trust_remote_code=config.trust_remote_code)
            return


def check_evaluation(configs: dict[str, Any]) -> None:
    """Raise UserError if `evaluate` is to run and has not enough documents; called before training.

    `configs`: those of the stages to run, by name.
    """
    config = configs.get("evaluate")
    if config is None or artifact.is_finished(config.output):
        return
    try:
        choose_samples(config)
    except UserError as error:
        raise UserError(
            f"evaluate: {str(error).rstrip('.')}, or train without an evaluation (until=pretrain)."
        ) from error


if __name__ == "__main__":
    from jobs.cli import main

    main("pipeline")
