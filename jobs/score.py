"""documents → scored: a classifier, a language model as judge, or both give each document a score 0-5.

<output>/data/texts/           rows scored by the classifier; with a judge data/first/ and data/again/
<output>/data/copies/          rows whose text occurs more than once: they take the score of one of them
<output>/rejected/             rows without a score, each with its reason
<output>/classified/           the classifier's scores until the judge has finished (scorers=both)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from jobs.label import AGAIN, FIRST, count_shortened, judge_rows
from safety_ray.classifier import deduplication, packaged
from safety_ray.classifier.batches import ScoreBatch
from safety_ray.classifier.classifier import Classifier
from safety_ray.classifier.deduplication import Duplicates
from safety_ray.classifier.pool import Pool
from safety_ray.classifier.token_totals import TokenTotals
from safety_ray.core import artifact, cluster, dataset, digests, exchange, partition
from safety_ray.core.artifact import Artifact
from safety_ray.core.cluster import Shared
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.records import DOCUMENT, SCORED
from safety_ray.core.worker_deaths import Watch
from safety_ray.judge import ensemble
from safety_ray.judge.settings import DocumentJudge, check_is_model
from safety_ray.llm import engine

_TEXTS, _COPIES, _CLASSIFIED = "texts", "copies", "classified"
_ARROW: Any = {"batch_format": "pyarrow"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig(Pool):
    """Score documents 0-5 for harm with a trained classifier, a language model as judge, or both."""

    documents: str = setting("dataset with id and text")
    output: str = setting("folder to write", identity=False)
    scorers: Literal["classifier", "judge", "both"] = setting(
        "classifier, judge or both", default="classifier"
    )
    classifier: str = setting(packaged.SETTING, default=packaged.DEFAULT)
    judge: DocumentJudge = setting("the judge: vllm or openai", factory=DocumentJudge)
    ensemble: Literal["max", "classifier", "judge"] = setting(
        "scorers=both: the higher score, or that of one scorer", default="max"
    )
    max_rejected: float = setting(
        "share of rejected rows above which the job fails", default=0.05, identity=False
    )
    seed: int = setting("seed of the document markers in the judge's prompt", default=0)
    partition: str = setting(partition.SETTING, default="")

    def __post_init__(self) -> None:
        Pool.__post_init__(self)
        partition.check(self.partition)
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"max_rejected={self.max_rejected} must be from 0 to 1.")
        if self.judges:
            check_is_model(self.judge, "judge")
        elif self.judge.kind != "none":
            raise UserError(
                "scorers=classifier uses no judge; set scorers to judge or both, or remove judge."
            )
        if self.ensemble != "max" and self.scorers != "both":
            raise UserError(f"ensemble={self.ensemble} needs scorers=both.")

    @property
    def classifies(self) -> bool:
        return self.scorers != "judge"

    @property
    def judges(self) -> bool:
        return self.scorers != "classifier"


def score_documents(config: ScoreConfig) -> dict[str, Any]:
    """Score `config.documents`. Returns the record; a finished folder is skipped."""
    config = partition.of(config, "documents")
    if not artifact.is_finished(config.output):
        if config.classifies:
            # fail here, not in an actor
            Classifier.load(config.classifier, "cpu", trust_remote_code=config.trust_remote_code)
        if config.judges:
            engine.check(config.judge)
    inputs = {"documents": config.documents}
    if config.classifies:
        inputs |= packaged.as_input(config.classifier)
    out = artifact.begin(config.output, config, inputs=inputs, temporary=(_CLASSIFIED,))
    if out.record is not None:
        return out.record
    cluster.start()

    documents = dataset.read(config.documents, DOCUMENT)
    rows = dataset.count(config.documents)
    shared, number = find_duplicates(documents, rows, len(dataset.files(config.documents)))
    texts = documents
    if number:
        texts = documents.map_batches(
            deduplication.keep, fn_kwargs={"shared": shared, "copies": False}, **_ARROW
        )
    totals = cluster.start_actor(TokenTotals) if config.classifies else None
    counts = score_texts(config, out, texts, rows - number, totals)

    if number:
        scores = scores_of_owners(out, shared)
        copies = documents.map_batches(
            deduplication.keep, fn_kwargs={"shared": shared, "copies": True}, **_ARROW
        ).map_batches(deduplication.fill, fn_kwargs={"shared": shared, "scores": scores}, **_ARROW)
        counts += dataset.write(
            copies, out, label="copies", total=number, write_rows=config.write_rows,
            max_rejected=1.0, part=_COPIES,
        )  # fmt: skip
    dataset.check_share(out.path, counts, config.max_rejected)

    more: dict[str, Any] = {}
    if config.judges:
        more = {"judge": config.judge.label, "judge_shortened": count_shortened(out, ensemble.JUDGED)}
    if totals is not None:
        more["tokens"] = cluster.result(totals.record.remote())
    return out.commit(
        rows_in=rows, rows_out=counts.rows_out, rejected=counts.rejected,
        scored_texts=rows - number, copies=number, **more,
        **partition.record("score", dataset.files, config.documents),
    )  # fmt: skip


def find_duplicates(documents: Dataset, rows: int, files: int) -> tuple[Shared[Duplicates], int]:
    """Find texts that occur more than once by a shuffle of digests. Returns them and the number of copies."""
    hashed = documents.select_columns(["id", "text"]).map_batches(digests.of_rows, **_ARROW)
    blocks = rows // digests.ROWS_PER_BLOCK + 1
    groups = exchange.by_key(
        hashed, digests.HALF, blocks, deduplication.duplicates, inputs=files
    ).materialize()
    return cluster.gather(groups, Duplicates.of), int(groups.sum(deduplication.COPIES) or 0)


def score_texts(config: ScoreConfig, out: Artifact, ds: Dataset, texts: int, totals: Any) -> dataset.Counts:
    """Write `ds` with scores. The judge starts after the classifier has ended, so they never share memory."""
    if config.classifies:
        ds = classify(ds, config, config.classifier, texts, totals=totals, watch=Watch(totals))
        settings: dict[str, Any] = {"label": "score", "total": texts, "write_rows": config.write_rows}
        if not config.judges:
            return dataset.write(ds, out, **settings, max_rejected=1.0, part=_TEXTS)
        classified = Artifact(out.sub(_CLASSIFIED), {}, {})
        # The judge also reads the rows that the classifier rejected; they have no score of the classifier.
        ds = ds.map_batches(dataset.keep_rejected, **_ARROW)
        dataset.write(ds.map_batches(ensemble.keep_classifier_score, **_ARROW), classified, **settings)
        ds = dataset.read(classified.sub("data"), SCORED)
    return judge_rows(
        ds, out, config.judge, seed=config.seed, total=texts, write_rows=config.write_rows,
        names=ensemble.JUDGED, by_chunks=config.classifies,
        finish=partial(ensemble.combine, ensemble=config.ensemble, judge_only=not config.classifies),
    )  # fmt: skip


def classify(
    ds: Dataset,
    pool: Pool,
    classifier: str,
    rows: int,
    *,
    totals: Any = None,
    watch: Watch | None = None,
    actor: type[ScoreBatch] | None = None,
) -> Dataset:
    """Add score columns to `ds`, about `rows` rows, with a pool of actors of class `actor` (`ScoreBatch`).

    With `watch`, rows that end an actor's process are rejected.
    """
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0.0)
    on_gpus, cpus = pool.on_gpus(gpus), resources.get("CPU", 1)
    minimum, maximum = pool.size(cpus, gpus, rows)
    threads = pool.cpus_per_actor(cpus, gpus, maximum)
    # One file may be one block; smaller blocks keep all actors busy and limit what a failure repeats.
    ds = ds.repartition(target_num_rows_per_block=pool.batch_rows, strict=True)
    return ds.map_batches(
        actor or ScoreBatch,
        fn_constructor_args=(
            classifier,
            pool.batch_tokens,
            "cuda" if on_gpus else "cpu",
            totals,
            threads,
            watch,
            pool.trust_remote_code,
        ),
        batch_format="pyarrow",
        batch_size=pool.batch_rows,
        # On a GPU two calls overlap: one tokenizes while the other one uses the GPU.
        compute=ActorPoolStrategy(
            min_size=minimum,
            max_size=maximum,
            max_concurrent_calls_per_actor=2 if on_gpus else 1,
            enable_true_multi_threading=on_gpus,
        ),
        num_cpus=threads,
        num_gpus=pool.gpus_per_actor if on_gpus else 0,
    )


def scores_of_owners(out: Artifact, shared: Shared[Duplicates]) -> Shared[pa.Table]:
    """Return the score columns of each text that occurs more than once, in the order of its digests."""
    owners: list[Any] = []
    for path in dataset.with_rows(out, (_TEXTS, FIRST, AGAIN)):
        names = [name for name in dataset.columns(path) if name in ensemble.ADDED]
        scored = dataset.stream(dataset.files(path), ["id", *names, dataset.REASON])
        owned = scored.map_batches(deduplication.owned, fn_kwargs={"shared": shared}, **_ARROW)
        owners += owned.to_arrow_refs()
    return cluster.gather(owners, partial(deduplication.arrange, shared=shared, where=out.path))


if __name__ == "__main__":
    from jobs.cli import main

    main("score")
