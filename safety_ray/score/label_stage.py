"""documents → labelled: a language model judges each document by the paper's rubric."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from safety_ray import artifact, dataset, engine
from safety_ray.config import setting
from safety_ray.engine import EngineConfig
from safety_ray.errors import UserError
from safety_ray.records import DOCUMENT
from safety_ray.score import label


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge(EngineConfig):
    """The engine that judges: its likeliest reply, and a short one."""

    max_tokens: int = setting("tokens in a reply at most; a reply cut there is an error", default=256)
    temperature: float = setting("0 takes the most likely token", default=0.0)


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
        if self.engine.kind == "template":
            raise UserError("a judge needs a language model: set engine.kind to vllm or openai.")
        if self.write_rows < 1 or not 0 <= self.max_set_aside <= 1:
            raise UserError("write_rows must be positive, and max_set_aside lies in [0, 1].")


def run(config: LabelConfig) -> dict[str, Any]:
    if not artifact.is_finished(config.output):
        engine.check(config.engine)
    out = artifact.begin(config.output, config, inputs={"documents": config.documents})
    if out.record is not None:
        return out.record
    dataset.start()
    rows = dataset.count(config.documents)
    start = config.engine.kind == "vllm" and not config.engine.structured
    # Strict blocks of a write task's size: what a failure repeats at most.
    ds = dataset.read(config.documents, DOCUMENT).repartition(
        target_num_rows_per_block=config.write_rows, strict=True
    )
    ds = ds.map_batches(partial(label.ask, seed=config.seed, start=start), batch_format="pyarrow")
    ds = engine.processor(config.engine, schema=label.SCHEMA)(ds).map_batches(
        partial(
            label.read,
            started=start,
            engine=config.engine.label,
            reason_column=dataset.REASON,
        ),
        batch_format="pyarrow",
    )
    counts = dataset.write(
        ds, out, label="label", total=rows, write_rows=config.write_rows, max_set_aside=config.max_set_aside
    )
    return out.commit(
        rows_in=rows, rows_out=counts.rows_out, set_aside=counts.set_aside, engine=config.engine.label
    )
