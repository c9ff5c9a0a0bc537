"""The stages in their order, each reading what the one before wrote; a finished one is skipped.

A stage is its config class and its `run`; this file says only which folder feeds which. All
settings are checked before the first stage starts.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_ray.config import from_dict, setting
from safety_ray.errors import UserError, nearest
from safety_ray.ingest.readers import list_files

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """`module` holds `config_class` and `run`; `paths` gives the settings that connect it."""

    name: str
    module: str
    config_class: str
    says: str
    paths: Callable[[PipelineConfig], Settings]

    def config(self, pipeline: PipelineConfig) -> Any:
        """This stage's settings: the pipeline's paths and seed, then its own section."""
        cls = getattr(importlib.import_module(self.module), self.config_class)
        fixed = {"output": f"{pipeline.output}/{self.name}", **self.paths(pipeline)}
        if "seed" in cls.__dataclass_fields__:
            fixed.setdefault("seed", pipeline.seed)
        section = getattr(pipeline, self.name)
        clash = sorted(set(section) & (set(fixed) - {"seed"}))
        if clash:
            raise UserError(f"{self.name}.{clash[0]} is set by the pipeline itself; leave it out.")
        return from_dict(cls, {**fixed, **section}, where=f"the section '{self.name}'")

    def run(self, config: Any) -> dict[str, Any]:
        record: dict[str, Any] = importlib.import_module(self.module).run(config)
        return record


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """Runs every stage in order, from documents to an endpoint that has answered."""

    output: str = setting("folder that holds one folder per stage, and summary.json")
    input: str = setting("your own documents (file, folder, glob); empty: the shipped corpus", default="")
    until: str = setting("the last stage to run; empty: all of them", default="")
    seed: int = setting("seed of every stage", default=0)
    corpus: dict[str, Any] = setting(
        "settings of the stage corpus (see python -m jobs.corpus --help)", factory=dict
    )
    ingest: dict[str, Any] = setting("settings of the stage ingest", factory=dict)
    fit: dict[str, Any] = setting("settings of the stage fit", factory=dict)
    score: dict[str, Any] = setting("settings of the stage score", factory=dict)
    rewrite: dict[str, Any] = setting("settings of the stage rewrite", factory=dict)
    report: dict[str, Any] = setting("settings of the stage report", factory=dict)
    pack: dict[str, Any] = setting("settings of the stage pack", factory=dict)
    pretrain: dict[str, Any] = setting("settings of the stage pretrain", factory=dict)
    evaluate: dict[str, Any] = setting("settings of the stage evaluate", factory=dict)
    endpoint: dict[str, Any] = setting("settings of the stage endpoint", factory=dict)

    def __post_init__(self) -> None:
        names = [stage.name for stage in STAGES]
        if self.until and self.until not in names:
            raise UserError(
                f"until={self.until} is no stage; the nearest is '{nearest(self.until, names)}' "
                f"({', '.join(names)})."
            )

    def stages(self) -> tuple[Stage, ...]:
        """The stages to run, in their order."""
        last = next((n for n, stage in enumerate(STAGES) if stage.name == self.until), len(STAGES) - 1)
        return STAGES[: last + 1]


STAGES = (
    Stage("corpus", "safety_ray.corpus.stage", "CorpusConfig", "labelled documents", lambda p: {}),
    Stage(
        "ingest", "safety_ray.ingest.stage", "IngestConfig", "documents, checked",
        lambda p: {"input": p.input or f"{p.output}/corpus/data"},
    ),
    Stage(
        "fit", "safety_ray.score.fit", "FitConfig", "harm classifier",
        lambda p: {"labelled": f"{p.output}/corpus"},
    ),
    Stage(
        "score", "safety_ray.score.stage", "ScoreConfig", "documents scored 0-5",
        lambda p: {"documents": f"{p.output}/ingest", "classifier": f"{p.output}/fit"},
    ),
    Stage(
        "rewrite", "safety_ray.rewrite.stage", "RewriteConfig", "rephrased, refused, moralized",
        lambda p: {"scored": f"{p.output}/score", "classifier": f"{p.output}/fit"},
    ),
    Stage(
        "report", "safety_ray.report.stage", "ReportConfig", "Data Safety Report Card",
        lambda p: {"scored": f"{p.output}/score", "rewritten": f"{p.output}/rewrite"},
    ),
    Stage(
        "pack", "safety_ray.pack.stage", "PackConfig", "token rows with tags",
        lambda p: {"scored": f"{p.output}/score", "rewritten": f"{p.output}/rewrite"},
    ),
    Stage(
        "pretrain", "safety_ray.train.stage", "PretrainConfig", "model",
        lambda p: {"rows": f"{p.output}/pack"},
    ),
    Stage(
        "evaluate", "safety_ray.evaluate.stage", "EvaluateConfig", "metrics",
        lambda p: {
            "model": f"{p.output}/pretrain", "classifier": f"{p.output}/fit",
            # The run's own held-out documents, and the corpus's, which any model can be asked about.
            "documents": [f"{p.output}/pack/heldout", f"{p.output}/corpus/heldout"],
        },
    ),
    Stage(
        "endpoint", "serve.ask", "AskConfig", "an endpoint that answers",
        lambda p: {"model": f"{p.output}/pretrain"},
    ),
)  # fmt: skip
"""documents → scored → rewritten → report card → token rows → model → metrics → endpoint"""


def run(pipeline: PipelineConfig) -> dict[str, Any]:
    """Run the stages up to `until`; returns and writes the summary: {"stages", "results", "endpoint"}."""
    started = time.time()
    if pipeline.input:
        list_files(
            pipeline.input, str(pipeline.ingest.get("format", "auto"))
        )  # a wrong path fails now, not after the corpus is made
    stages = pipeline.stages()
    configs = [stage.config(pipeline) for stage in STAGES]
    records: dict[str, dict[str, Any]] = {}
    for number, (stage, config) in enumerate(zip(stages, configs, strict=False), start=1):
        print(f"[{number}/{len(stages)}] {stage.name}: {stage.says}  → {config.output}", flush=True)
        before = time.time()
        records[stage.name] = stage.run(config)
        if records[stage.name]["seconds"] > time.time() - before + 1:
            print("  finished earlier, skipped", flush=True)
    summary = summarize(records)
    path = Path(pipeline.output) / "summary.json"
    path.write_text(json.dumps(summary, indent=1, ensure_ascii=False))
    print(table(summary))
    print(f"\nAll of it: {path.resolve()}")
    if "report" in records:
        print(f"The report card: {Path(pipeline.output).resolve()}/report/card.html")
    total = sum(record["seconds"] for record in records.values())
    print(f"{total:.0f} s of work, {time.time() - started:.0f} s in this run")
    return summary


RESULTS = ("p_tag_auroc", "unsafe_rate_beam", "unsafe_rate_safebeam", "perplexity_safe")


def summarize(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the stages' records say, in the form of summary.json; empty for stages that did not run."""
    return {
        "stages": [
            {"name": name, **{key: record[key] for key in ("rows_in", "rows_out", "set_aside", "seconds")}}
            for name, record in records.items()
        ],
        "results": {k: records["evaluate"]["results"][k] for k in RESULTS} if "evaluate" in records else {},
        "endpoint": records["endpoint"]["answers"] if "endpoint" in records else {},
    }


def table(summary: dict[str, Any]) -> str:
    """The summary for a person."""
    lines = ["", f"{'stage':<12}{'rows in':>12}{'rows out':>12}{'set aside':>12}{'seconds':>10}"]
    for row in summary["stages"]:
        counts = "".join(f"{row[key]:>12,}" for key in ("rows_in", "rows_out", "set_aside"))
        lines.append(f"{row['name']:<12}{counts}{row['seconds']:>10.1f}")
    lines.append("")
    lines += [f"{key:<22}{value:>10.3f}" if value is not None else f"{key:<22}{'-':>10}"
              for key, value in summary["results"].items()]  # fmt: skip
    for mode, answer in summary["endpoint"].items():
        lines.append(f"\nendpoint, {mode}: {json.dumps(answer, ensure_ascii=False)}")
    return "\n".join(lines)
