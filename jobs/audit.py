"""scored → audit: label a sample of each score, and compare the scores with the labels.

<output>/data/       the sample, with scores and labels
<output>/audit.json  all values
<output>/audit.png   plot of precision, recall and removed shares at each threshold
<output>/README.md   tables and plot
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.label import count_shortened, judge_rows
from safety_ray.audit import audit, page, sampling
from safety_ray.core import artifact, cluster, dataset, filesystem
from safety_ray.core.artifact import Artifact
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORED_TEXT, SCORES, Column
from safety_ray.judge.settings import DocumentJudge, check_is_model
from safety_ray.llm import engine

_SAMPLE = "sample"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """Measure scores against labels of a stratified sample: precision, recall, thresholds."""

    scored: str = setting("dataset with id, text and score")
    output: str = setting("folder to write", identity=False)
    labels: str = setting("existing column with labels 0-5; empty: the judge labels the sample", default="")
    judge: DocumentJudge = setting("the judge: vllm or openai", factory=DocumentJudge)
    per_score: int = setting("number of documents of each score to label", default=200)
    unsafe_from: int = setting("lowest label of an unsafe document", default=3)
    wanted: dict[str, float] = setting(
        "minimum that the threshold must reach: {recall: 0.95} or {precision: 0.8}; empty: no threshold",
        factory=dict,
    )
    draws: int = setting("number of posterior draws for the intervals", default=4000)
    write_rows: int = setting(
        "rows in a write task: the maximum that a failure repeats", default=64, identity=False
    )
    max_rejected: float = setting(
        "share of rejected rows of the sample above which the job fails", default=0.1, identity=False
    )
    seed: int = setting("seed of the sample, the intervals and the document markers", default=0)

    def __post_init__(self) -> None:
        if not self.labels:
            check_is_model(self.judge, "judge")
        elif self.judge.kind != "none":
            raise UserError(f"labels={self.labels} uses no judge; set either labels or judge.")
        if min(self.per_score, self.draws, self.write_rows) < 1:
            raise UserError("per_score, draws and write_rows must be positive.")
        if not 1 <= self.unsafe_from < SCORES:
            raise UserError(f"unsafe_from={self.unsafe_from} must be from 1 to {SCORES - 1}.")
        if len(self.wanted) > 1 or set(self.wanted) - {"recall", "precision"}:
            raise UserError(f"wanted={self.wanted} must have one key, recall or precision.")
        if any(not 0 < minimum <= 1 for minimum in self.wanted.values()):
            raise UserError(f"wanted={self.wanted}: the value must be above 0 and at most 1.")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"max_rejected={self.max_rejected} must be between 0 and 1.")


def audit_scores(config: AuditConfig) -> dict[str, Any]:
    """Audit `config.scored`. Returns the record; a finished folder is skipped."""
    label = Column(config.labels, pa.int8(), "labels 0-5")
    needed = (*SCORED_TEXT, label) if config.labels else SCORED_TEXT
    if not artifact.is_finished(config.output):
        dataset.check(config.scored, needed)
        if not config.labels:
            engine.check(config.judge)
    out = artifact.begin(config.output, config, inputs={"scored": config.scored}, temporary=(_SAMPLE,))
    if out.record is not None:
        return out.record
    cluster.start()
    used = {*(column.name for column in needed), "token_count"}
    names = [name for name in dataset.columns(config.scored) if name in used]
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
    result = _estimates(config, strata, totals)
    fs, root = filesystem.find(out.path)
    fs.pipe_file(f"{root}/audit.json", json.dumps(result, indent=1).encode())
    fs.pipe_file(f"{root}/audit.png", page.plot(result))
    fs.pipe_file(f"{root}/README.md", page.readme(result).encode())
    print(page.table(result), flush=True)
    return out.commit(
        rows_in=len(sample), rows_out=counts.rows_out, rejected=counts.rejected,
        threshold=result["threshold"], wanted=dict(config.wanted), labelled_by=result["labelled_by"],
        label_shortened=None if config.labels else count_shortened(out),
    )  # fmt: skip


def _sample(config: AuditConfig, ids: list[str]) -> pa.Table:
    """Return the rows of the sample, with all their columns."""
    if not ids:
        raise UserError(f"no row of '{config.scored}' has a label in the column {config.labels}.")
    rows = dataset.read(config.scored, SCORED_TEXT).map_batches(
        partial(sampling.select_ids, ids=pa.array(ids, pa.string())), batch_format="pyarrow"
    )
    tables = [table for table in rows.iter_batches(batch_format="pyarrow", batch_size=None) if len(table)]
    sample = pa.concat_tables(tables, promote_options="permissive").sort_by("id")
    if len(sample) != len(ids):
        raise UserError(f"'{config.scored}' has an id more than once; run jobs.ingest on it first.")
    return sample


def _label(config: AuditConfig, out: Artifact, sample: pa.Table) -> dataset.Counts:
    """Write the sample with its labels into `out`."""
    if config.labels:
        dataset.write_table(sample, out.sub("data", "sample.parquet"))
        return dataset.Counts(len(sample), 0)
    dataset.write_table(sample, out.sub(_SAMPLE, "sample.parquet"))
    # The chunk that the classifier holds for the most harmful would hide what it misses in others.
    counts = judge_rows(
        dataset.read(out.sub(_SAMPLE), SCORED_TEXT), out, config.judge,
        seed=config.seed, total=len(sample), write_rows=config.write_rows,
    )  # fmt: skip
    dataset.check_share(out.path, counts, config.max_rejected)
    return counts


def _estimates(config: AuditConfig, strata: audit.Strata, totals: dict[str, Any]) -> dict[str, Any]:
    """Return the content of audit.json."""
    settings = {"draws": config.draws, "seed": config.seed}
    sizes = {name: np.asarray(totals[name]) for name in ("characters", "tokens") if totals[name].any()}
    thresholds = audit.per_threshold(strata, config.unsafe_from, sizes, **settings)
    threshold, sure = audit.choose(thresholds, config.wanted)
    return {
        "scored": config.scored,
        "documents": int(strata.documents.sum()),
        "labelled": int(strata.sampled.sum()),
        "labelled_by": f"column {config.labels}" if config.labels else config.judge.label,
        "unsafe_from": config.unsafe_from,
        "scores": audit.per_score(strata, config.unsafe_from, **settings),
        "thresholds": thresholds,
        "wanted": dict(config.wanted),
        "threshold": threshold,
        "sure": sure,
    }


if __name__ == "__main__":
    from jobs.cli import main

    main("audit")
