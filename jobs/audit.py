"""scored → audit: a sample of each score is labelled anew, and the scores are held against it.

<output>/data/       the sample, with scores and labels
<output>/audit.json  every figure
<output>/audit.png   precision, recall and what is thrown away at each threshold
<output>/README.md   the same for a reader
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.label import judge_rows
from safety_ray.audit import audit, page, sampling
from safety_ray.core import artifact, cluster, dataset, filesystem
from safety_ray.core.artifact import Artifact
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORED, SCORES, Column, require
from safety_ray.judge.settings import Judge, check_is_model
from safety_ray.llm import engine

_READ = tuple(c for c in SCORED if c.name in ("id", "text", "score"))
_SAMPLE = "sample"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """Measures scores against labels of a stratified sample: precision, recall, thresholds."""

    scored: str = setting("dataset with id, text and score")
    output: str = setting("folder to write", identity=False)
    labels: str = setting("column that holds labels 0-5 already; empty: the judge gives them", default="")
    judge: Judge = setting("the judge: vllm or openai", factory=Judge)
    per_score: int = setting("documents to label of each score", default=200)
    unsafe_from: int = setting("lowest label of an unsafe document", default=3)
    wanted: dict[str, float] = setting(
        "what a threshold has to reach: {recall: 0.95} or {precision: 0.8}; empty: none is chosen",
        factory=dict,
    )
    draws: int = setting("draws of the intervals", default=4000)
    write_rows: int = setting(
        "rows in a write task: what a failure repeats at most", default=64, identity=False
    )
    max_rejected: float = setting(
        "share of the sample without a label above which it fails", default=0.1, identity=False
    )
    seed: int = setting("seed of the sample, the intervals and the document markers", default=0)

    def __post_init__(self) -> None:
        if not self.labels:
            check_is_model(self.judge, "judge")
        elif self.judge.kind != "template":
            raise UserError(f"labels={self.labels} asks no judge; leave one of labels and judge out.")
        if min(self.per_score, self.draws, self.write_rows) < 1:
            raise UserError("per_score, draws and write_rows must be positive.")
        if not 1 <= self.unsafe_from < SCORES:
            raise UserError(f"unsafe_from={self.unsafe_from} must be from 1 to {SCORES - 1}.")
        if len(self.wanted) > 1 or set(self.wanted) - {"recall", "precision"}:
            raise UserError(f"wanted={self.wanted} must hold recall or precision, and one of them alone.")
        if any(not 0 < least <= 1 for least in self.wanted.values()):
            raise UserError(f"wanted={self.wanted}: a share lies above 0 and is at most 1.")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"max_rejected={self.max_rejected} must be between 0 and 1.")


def audit_scores(config: AuditConfig) -> dict[str, Any]:
    label = Column(config.labels, pa.int8(), "labels 0-5")
    needed = (*_READ, label) if config.labels else _READ
    if not artifact.is_finished(config.output):
        require(needed, dataset.columns(config.scored), f"'{config.scored}'")
        if not config.labels:
            engine.check(config.judge)
    out = artifact.begin(config.output, config, inputs={"scored": config.scored})
    if out.record is not None:
        return out.record
    cluster.start()
    names = [n for n in dataset.columns(config.scored) if n in (*(c.name for c in needed), "token_count")]
    tallies = (
        dataset.read(config.scored, needed)
        .select_columns(names)
        .map_batches(
            partial(sampling.tally, seed=config.seed, per_score=config.per_score, labels=config.labels),
            batch_format="pyarrow",
        )
    )
    totals, ids = sampling.merge(
        tallies.iter_batches(batch_format="pyarrow", batch_size=None), config.per_score
    )
    sample = _sample(config, ids)
    counts = _label(config, out, sample)
    labelled = dataset.table(out.sub("data"))
    strata = audit.Strata(totals["documents"], sampling.confusion(labelled, config.labels or "label"))
    strata.check()
    found = _figures(config, strata, totals)
    fs, root = filesystem.find(out.path)
    fs.pipe_file(f"{root}/audit.json", json.dumps(found, indent=1).encode())
    fs.pipe_file(f"{root}/audit.png", page.draw(found))
    fs.pipe_file(f"{root}/README.md", page.write(found).encode())
    print(page.table(found), flush=True)
    record = out.commit(
        rows_in=len(sample), rows_out=counts.rows_out, rejected=counts.rejected,
        threshold=found["threshold"], wanted=dict(config.wanted), labelled_by=found["labelled_by"],
    )  # fmt: skip
    if fs.exists(f"{root}/{_SAMPLE}"):
        fs.rm(f"{root}/{_SAMPLE}", recursive=True)
    return record


def _sample(config: AuditConfig, ids: list[str]) -> pa.Table:
    """The rows of the sample, with all their columns."""
    if not ids:
        raise UserError(f"no row of '{config.scored}' has a label in the column {config.labels}.")
    chosen = pa.array(ids, pa.string())
    rows = dataset.read(config.scored, _READ).map_batches(
        partial(sampling.only, ids=chosen), batch_format="pyarrow"
    )
    found = [t for t in rows.iter_batches(batch_format="pyarrow", batch_size=None) if len(t)]
    sample = pa.concat_tables(found, promote_options="permissive").sort_by("id")
    if len(sample) != len(ids):
        raise UserError(f"'{config.scored}' holds an id more than once; run jobs.ingest on it first.")
    return sample


def _label(config: AuditConfig, out: Artifact, sample: pa.Table) -> dataset.Counts:
    """Write the sample with its labels into `out`."""
    if config.labels:
        dataset.write_table(sample, out.sub("data", "sample.parquet"))
        return dataset.Counts(len(sample), 0)
    dataset.write_table(sample, out.sub(_SAMPLE, "sample.parquet"))
    counts = judge_rows(
        dataset.read(out.sub(_SAMPLE), _READ), out, config.judge,
        seed=config.seed, total=len(sample), write_rows=config.write_rows,
    )  # fmt: skip
    dataset.check_share(out.path, counts, config.max_rejected)
    return counts


def _figures(config: AuditConfig, strata: audit.Strata, totals: dict[str, Any]) -> dict[str, Any]:
    how = {"draws": config.draws, "seed": config.seed}
    sizes = {name: np.asarray(totals[name]) for name in ("characters", "tokens") if totals[name].any()}
    thresholds = audit.per_threshold(strata, config.unsafe_from, sizes, **how)
    threshold, sure = audit.choose(thresholds, config.wanted)
    return {
        "scored": config.scored,
        "documents": int(strata.documents.sum()),
        "labelled": int(strata.sampled.sum()),
        "labelled_by": f"column {config.labels}" if config.labels else config.judge.label,
        "unsafe_from": config.unsafe_from,
        "scores": audit.per_score(strata, config.unsafe_from, **how),
        "thresholds": thresholds,
        "wanted": dict(config.wanted),
        "threshold": threshold,
        "sure": sure,
    }


if __name__ == "__main__":
    from jobs.cli import main

    main("audit")
