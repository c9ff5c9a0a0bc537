"""documents → labelled: a language model judges each document by the paper's rubric.

<output>/data/first/   rows labelled by the first request
<output>/data/again/   rows labelled by a second request, because the first reply could not be parsed
<output>/rejected/     rows without a label, each with its reason
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from safety_ray.core import artifact, cluster, dataset, partition
from safety_ray.core.artifact import Artifact
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import DOCUMENT
from safety_ray.judge import rubric
from safety_ray.judge.rubric import LABEL, Names
from safety_ray.judge.settings import DocumentJudge, check_is_model
from safety_ray.llm import engine

FIRST, AGAIN = "first", "again"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelConfig:
    """Label documents 0-5 for harm with a language model as judge."""

    documents: str = setting("dataset with id and text")
    output: str = setting("folder to write", identity=False)
    engine: DocumentJudge = setting("the judge: vllm or openai", factory=DocumentJudge)
    write_rows: int = setting(
        "rows in a write task: the maximum that a failure repeats; 0: 256, or more for over 10^7 documents",
        default=0,
        identity=False,
    )
    max_rejected: float = setting(
        "share of rejected rows above which the job fails", default=0.3, identity=False
    )
    seed: int = setting("seed of the document markers", default=0)
    partition: str = setting(partition.SETTING, default="")

    def __post_init__(self) -> None:
        check_is_model(self.engine, "engine")
        partition.check(self.partition)
        if self.write_rows < 0 or not 0 <= self.max_rejected <= 1:
            raise UserError("write_rows must be 0 or positive, and max_rejected in [0, 1].")


def label_documents(config: LabelConfig) -> dict[str, Any]:
    """Label `config.documents`. Returns the record; a finished folder is skipped."""
    config = partition.of(config, "documents")
    if not artifact.is_finished(config.output):
        engine.check(config.engine)
    out = artifact.begin(config.output, config, inputs={"documents": config.documents})
    if out.record is not None:
        return out.record
    cluster.start()
    rows = dataset.count(config.documents)
    documents = dataset.read(config.documents, DOCUMENT)
    counts = judge_rows(
        documents, out, config.engine, seed=config.seed, total=rows, write_rows=config.write_rows
    )
    dataset.check_share(out.path, counts, config.max_rejected)
    return out.commit(
        rows_in=rows, rows_out=counts.rows_out, rejected=counts.rejected, engine=config.engine.label,
        label_shortened=count_shortened(out), **partition.record("label", dataset.files, config.documents),
    )  # fmt: skip


def judge_rows(
    ds: Dataset,
    out: Artifact,
    judge: DocumentJudge,
    *,
    seed: int,
    total: int,
    write_rows: int,
    names: Names = LABEL,
    by_chunks: bool = False,
    finish: Callable[[pa.Table], pa.Table] | None = None,
) -> dataset.Counts:
    """Write `ds` with the judge's columns `names` into `out`. Returns the counts of both passes.

    Two passes, `data/first` and `data/again`: a row whose reply cannot be parsed is sent a second time, with
    a reminder of the format. `by_chunks`: of a long text, the judge reads the chunk with the
    classifier's highest score. `finish` adds columns that depend on the judgement.
    """
    # Strict blocks of the size of a write task limit what a failure repeats.
    write_rows = dataset.llm_rows(write_rows, total)
    ds = ds.repartition(target_num_rows_per_block=write_rows, strict=True)

    def judge_pass(rows: Dataset, judge: DocumentJudge, total: int, again: bool) -> dataset.Counts:
        start = judge.kind == "vllm" and not judge.structured
        requests = rows.map_batches(
            partial(
                rubric.add_messages,
                seed=seed,
                start=start,
                names=names,
                again=again,
                max_chars=judge.max_chars,
                by_chunks=by_chunks,
            ),
            batch_format="pyarrow",
        )
        judged = engine.processor(judge, schema=rubric.SCHEMA)(requests).map_batches(
            partial(
                rubric.parse_replies,
                started=start,
                engine=judge.label,
                reason_column=dataset.REASON,
                names=names,
            ),
            batch_format="pyarrow",
        )
        if finish is not None:
            judged = judged.map_batches(finish, batch_format="pyarrow")
        return dataset.write(
            judged, out, label="judge again" if again else "judge", total=total, write_rows=write_rows,
            max_rejected=1.0, part=AGAIN if again else FIRST,
        )  # fmt: skip

    first = judge_pass(ds, judge, total, again=False)
    if first.rejected:
        failed = dataset.read(out.sub("rejected", FIRST), DOCUMENT)
        judge_pass(failed, replace(judge, seed=judge.seed + 1), first.rejected, again=True)
        dataset.drop_rejected(out, FIRST)  # the second pass has written these rows
    second = dataset.written(out, AGAIN) or dataset.Counts(0, 0)
    return dataset.Counts(first.rows_out + second.rows_out, second.rejected)


def count_shortened(out: Artifact, names: Names = LABEL) -> int:
    """Return the number of rows that `judge_rows` wrote into `out` of which the judge read only a part."""
    folders = dataset.with_rows(out, (FIRST, AGAIN))
    return sum(dataset.count_where(folder, names.shortened, [True]) for folder in folders)


if __name__ == "__main__":
    from jobs.cli import main

    main("label")
