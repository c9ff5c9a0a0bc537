"""documents → scored: an actor pool classifies the stream, on GPUs where there are some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import torch

from safety_ray import artifact, dataset
from safety_ray.config import setting
from safety_ray.errors import UserError
from safety_ray.records import DOCUMENT, SCORED
from safety_ray.score.classifier import Classifier


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Scores documents 0-5 for harm with a fitted classifier."""

    documents: str = setting("dataset with id and text")
    classifier: str = setting("folder of a finished fit")
    output: str = setting("folder to write")
    actors: int = setting(
        "classifier actors; 0: one per GPU, or one per CPU but two where there is none", default=0
    )
    gpus_per_actor: float = setting("share of a GPU that an actor takes, where there are GPUs", default=1.0)
    batch_rows: int = setting("documents handed to an actor at a time", default=128)
    batch_tokens: int = setting("tokens in one forward pass, padding included", default=4096)
    write_rows: int = setting("rows in a write task: what a failure repeats at most", default=256)
    max_set_aside: float = setting("share of rows set aside above which the job fails", default=0.05)

    def __post_init__(self) -> None:
        if min(self.batch_rows, self.batch_tokens, self.write_rows) < 1 or self.actors < 0:
            raise UserError("batch_rows, batch_tokens and write_rows must be positive, actors not negative.")
        if not 0 < self.gpus_per_actor <= 1:
            raise UserError(f"gpus_per_actor={self.gpus_per_actor} must lie above 0 and be at most 1.")


class ScoreBatch:
    """One actor of the pool: holds the classifier, adds score columns to batches."""

    def __init__(self, classifier: str, batch_tokens: int, device: str) -> None:
        torch.set_num_threads(1 if device == "cpu" else 4)
        self.classifier = Classifier.load(classifier, device)
        self.batch_tokens = batch_tokens

    def __call__(self, batch: pa.Table) -> pa.Table:
        predictions = self.classifier.predict(batch.column("text").to_pylist(), self.batch_tokens)
        added = {
            "score": [p.score for p in predictions],
            "probs": [p.probs for p in predictions],
            "chunk_scores": [p.chunk_scores for p in predictions],
        }
        for column in SCORED:
            if column.name in added:
                if column.name in batch.column_names:
                    batch = batch.drop_columns([column.name])
                values = pa.array(added[column.name], column.type)
                batch = batch.append_column(column.name, values)
        return batch


def score(ds: ray.data.Dataset, config: Any, rows: int) -> ray.data.Dataset:
    """`ds` with score columns; `config` has the classifier and pool settings of `ScoreConfig`."""
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0.0)
    # Two slots stay free for reading and writing, or the stream never moves.
    most = int(gpus / config.gpus_per_actor) if gpus else int(resources.get("CPU", 1)) - 2
    # An actor takes seconds to load its model: no more of them than there are batches.
    actors = max(1, min(config.actors or most, -(-rows // config.batch_rows)))
    # A file may be one block: cut it, so that all actors have work and little is lost with one.
    return ds.repartition(target_num_rows_per_block=config.batch_rows, strict=True).map_batches(
        ScoreBatch,
        fn_constructor_args=(config.classifier, config.batch_tokens, "cuda" if gpus else "cpu"),
        batch_format="pyarrow",
        batch_size=config.batch_rows,
        compute=ray.data.ActorPoolStrategy(size=actors),
        **({"num_gpus": config.gpus_per_actor} if gpus else {"num_cpus": 1}),
    )


def run(config: ScoreConfig) -> dict[str, Any]:
    if not artifact.is_finished(config.output):
        Classifier.load(config.classifier, "cpu")  # a missing one fails here, not in an actor
    out = artifact.begin(
        config.output, config, inputs={"documents": config.documents, "classifier": config.classifier}
    )
    if out.record is not None:
        return out.record
    dataset.start()
    rows = dataset.count(config.documents)
    ds = score(dataset.read(config.documents, DOCUMENT), config, rows)
    counts = dataset.write(
        ds, out, label="score", total=rows, write_rows=config.write_rows, max_set_aside=config.max_set_aside
    )
    return out.commit(rows_in=rows, rows_out=counts.rows_out, set_aside=counts.set_aside)
