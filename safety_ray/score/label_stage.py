"""documents → labelled: a language model judges each document by the paper's rubric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safety_ray import artifact, cluster, dataset, engine
from safety_ray.config import setting
from safety_ray.errors import UserError
from safety_ray.records import DOCUMENT
from safety_ray.score.judge import Judge, check_is_model, judge_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelConfig:
    """Labels documents 0-5 for harm with a language model as judge."""

    documents: str = setting("dataset with id and text")
    output: str = setting("folder to write")
    engine: Judge = setting("the judge: vllm or openai", factory=Judge)
    write_rows: int = setting("rows in a write task: what a failure repeats at most", default=256)
    max_set_aside: float = setting("share of rows set aside above which the job fails", default=0.3)
    seed: int = setting("seed of the document markers", default=0)

    def __post_init__(self) -> None:
        check_is_model(self.engine, "engine")
        if self.write_rows < 1 or not 0 <= self.max_set_aside <= 1:
            raise UserError("write_rows must be positive, and max_set_aside lies in [0, 1].")


def run(config: LabelConfig) -> dict[str, Any]:
    if not artifact.is_finished(config.output):
        engine.check(config.engine)
    out = artifact.begin(config.output, config, inputs={"documents": config.documents})
    if out.record is not None:
        return out.record
    cluster.start()
    rows = dataset.count(config.documents)
    counts = judge_rows(
        dataset.read(config.documents, DOCUMENT), out, config.engine,
        seed=config.seed, total=rows, write_rows=config.write_rows,
    )  # fmt: skip
    dataset.check_share(out.path, counts, config.max_set_aside)
    return out.commit(
        rows_in=rows, rows_out=counts.rows_out, set_aside=counts.set_aside, engine=config.engine.label
    )
