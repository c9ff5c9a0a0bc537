"""The driver of a disturbed run: the small demo pipeline, which notes each row that a worker processes.

    python -m benchmarks.chaos.driver FOLDER [key=value ...]

A worker appends the ids of the rows that it has processed to FOLDER/seen/<stage>-<process id>. FOLDER/done
exists once the pipeline has ended.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs import ingest, pack, score
from jobs.pipeline import PipelineConfig, run_pipeline, selected, stages_of
from safety_ray.classifier.batches import ScoreBatch
from safety_ray.core.config import load
from safety_ray.core.job import quiet

STAGES = ("ingest", "score", "rewrite", "pack")
"""stages that note their rows"""
DEMO = "configs/pipeline/demo.yaml"
SMALL = (
    "until=pretrain", "classifier=default", "rewrite.engine.kind=template", "rewrite.attempts=1",
    "rewrite.max_rejected=0.9", "pack.vocab_size=1024", "pack.row_length=128",
    "score.batch_rows=16", "score.write_rows=16", "rewrite.batch_rows=16", "rewrite.write_rows=16",
    "pretrain.model.hidden_size=64", "pretrain.model.layers=2", "pretrain.model.heads=2",
    "pretrain.model.kv_heads=2", "pretrain.model.intermediate_size=128", "pretrain.max_steps=40",
    "pretrain.checkpoint_every=5", "pretrain.log_every=1", "pretrain.max_failures=20",
)  # fmt: skip


def noter(folder: Path, stage: str) -> Callable[[pa.Table], None]:
    """Return a function that notes the ids of rows that this process has processed for `stage`."""

    def note(rows: pa.Table) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{stage}-{os.getpid()}").open("a") as file:
            file.write("".join(f"{id}\n" for id in rows.column("id").to_pylist()))

    return note


def note_rows(folder: Path) -> None:
    """Make the workers of `STAGES` note their rows."""
    read_watched, encode_watched = ingest.read_watched, pack.encode_watched
    ingested, scored, rewritten, packed = (noter(folder, name) for name in STAGES)

    def noting_tables(*settings: Any) -> Iterator[pa.Table]:
        for table in read_watched(*settings):
            ingested(table)
            yield table

    def noting_encoded(batch: pa.Table, **settings: Any) -> pa.Table:
        encoded = encode_watched(batch, **settings)
        packed(batch)
        return encoded

    class NotingScoreBatch(ScoreBatch):
        def __call__(self, batch: pa.Table) -> pa.Table:
            found = super().__call__(batch)
            (rewritten if "source_id" in batch.column_names else scored)(batch)
            return found

    ingest.read_watched, pack.encode_watched = noting_tables, noting_encoded
    score.ScoreBatch = NotingScoreBatch  # type: ignore[misc]


def settings(folder: Path, words: Sequence[str] = ()) -> PipelineConfig:
    """Return the settings of the pipeline of FOLDER, whose input is beside it."""
    inputs = f"input={folder.parent}/documents"
    return load(PipelineConfig, [DEMO, *SMALL, inputs, *words, f"output={folder}/runs"])


def stages(folder: Path) -> list[str]:
    """Return the names of all stages of the pipeline, in their order."""
    config = settings(folder)
    return [stage.name for stage in selected(config, stages_of(config))]


def main(folder: Path, words: list[str]) -> None:
    quiet()
    note_rows(folder / "seen")
    run_pipeline(settings(folder, words))
    (folder / "done").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
