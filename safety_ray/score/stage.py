"""documents → scored: a pool of classifiers, a language model as judge, or both over the stream.

A text that occurs more than once is scored once. `data/texts` (with a judge `data/first` and
`data/again`) holds the rows that were scored, `data/copies` those that took the score of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import ray
import ray.data

from safety_ray import artifact, cluster, dataset, engine, filesystem
from safety_ray.artifact import Artifact
from safety_ray.config import setting
from safety_ray.errors import UserError
from safety_ray.records import DOCUMENT, SCORED
from safety_ray.score import ensemble, stage_repeats
from safety_ray.score.classifier import Classifier
from safety_ray.score.judge import AGAIN, FIRST, Judge, check_is_model, judge_rows
from safety_ray.score.pool import Pool
from safety_ray.score.repeats import KEY, Repeats, fingerprints, repeated
from safety_ray.score.stage_pool import score
from safety_ray.score.stage_tally import Tally

_TEXTS, _COPIES, _CLASSIFIED = "texts", "copies", "classified"
_DIGESTS = 1_000_000
"""digests that are compared in one block"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig(Pool):
    """Scores documents 0-5 for harm with a fitted classifier, a language model as judge, or both."""

    documents: str = setting("dataset with id and text")
    output: str = setting("folder to write")
    scorers: Literal["classifier", "judge", "both"] = setting("who scores", default="classifier")
    classifier: str = setting("folder of a finished fit, or the hub id of a published classifier", default="")
    judge: Judge = setting("the judge: vllm or openai", factory=Judge)
    ensemble: Literal["max", "classifier", "judge"] = setting(
        "the score of a row that both scored: the higher one, or that of one of them", default="max"
    )
    max_set_aside: float = setting("share of rows set aside above which the job fails", default=0.05)
    seed: int = setting("seed of the document markers that the judge sees", default=0)

    def __post_init__(self) -> None:
        Pool.__post_init__(self)
        if self.classifies and not self.classifier:
            raise UserError(f"scorers={self.scorers} needs classifier: the folder of a finished fit.")
        if self.judges:
            check_is_model(self.judge, "judge")
        elif self.judge.kind != "template":
            raise UserError(
                "scorers=classifier asks no judge; set scorers to judge or both, or leave judge out."
            )
        if self.ensemble != "max" and self.scorers != "both":
            raise UserError(f"ensemble={self.ensemble} chooses between two scores, so it needs scorers=both.")

    @property
    def classifies(self) -> bool:
        return self.scorers != "judge"

    @property
    def judges(self) -> bool:
        return self.scorers != "classifier"


def run(config: ScoreConfig) -> dict[str, Any]:
    if not artifact.is_finished(config.output):
        if config.classifies:
            Classifier.load(config.classifier, "cpu")  # a missing one fails here, not in an actor
        if config.judges:
            engine.check(config.judge)
    inputs = {"documents": config.documents}
    if config.classifies:
        inputs |= artifact.local_input("classifier", config.classifier)
    out = artifact.begin(config.output, config, inputs=inputs)
    if out.record is not None:
        return out.record
    cluster.start()
    rows = dataset.count(config.documents)
    repeats = _repeats(config, rows)
    shared = ray.put(repeats)  # one copy a node, which all tasks read in place
    texts = rows - repeats.copies
    ds = _rows(config, shared, copies=False) if repeats.copies else dataset.read(config.documents, DOCUMENT)
    tally = Tally.near() if config.classifies else None
    counts = _score_texts(config, out, ds, texts, tally)
    if repeats.copies:
        known = ray.put(_known(out, repeats, shared))
        copies = _rows(config, shared, copies=True).map_batches(
            stage_repeats.fill, fn_kwargs={"repeats": shared, "known": known}, batch_format="pyarrow"
        )
        more = dataset.write(
            copies, out, label="copies", total=repeats.copies, write_rows=config.write_rows,
            max_set_aside=1.0, part=_COPIES,
        )  # fmt: skip
        counts = dataset.Counts(counts.rows_out + more.rows_out, counts.set_aside + more.set_aside)
    dataset.check_share(out.path, counts, config.max_set_aside)
    by: dict[str, Any] = {"judge": config.judge.label} if config.judges else {}
    if tally is not None:
        by["tokens"] = tally.record()
    record = out.commit(
        rows_in=rows, rows_out=counts.rows_out, set_aside=counts.set_aside,
        scored_texts=texts, copies=repeats.copies, **by,
    )  # fmt: skip
    fs, root = filesystem.find(out.sub(_CLASSIFIED))
    if fs.exists(root):
        fs.rm(root, recursive=True)
    return record


def _repeats(config: ScoreConfig, rows: int) -> Repeats:
    """Which texts occur more than once; only digests of texts and ids are moved for it."""
    marks = dataset.read(config.documents, DOCUMENT).select_columns(["id", "text"])
    # All digests of a text meet in one block.
    groups = (
        marks.map_batches(fingerprints, batch_format="pyarrow")
        .repartition(rows // _DIGESTS + 1, keys=[KEY])
        .map_batches(repeated, batch_format="pyarrow", batch_size=None)
    )
    return Repeats.of(list(groups.iter_batches(batch_format="pyarrow", batch_size=None)))


def _rows(config: ScoreConfig, shared: Any, copies: bool) -> ray.data.Dataset:
    return dataset.read(config.documents, DOCUMENT).map_batches(
        stage_repeats.split, fn_kwargs={"repeats": shared, "copies": copies}, batch_format="pyarrow"
    )


def _score_texts(
    config: ScoreConfig, out: Artifact, ds: ray.data.Dataset, texts: int, tally: Tally | None
) -> dataset.Counts:
    """Write `ds` with scores. The model of a judge never needs room beside the classifier."""
    if config.classifies:
        ds = score(ds, config, config.classifier, texts, tally=tally)
        settings: dict[str, Any] = {"label": "score", "total": texts, "write_rows": config.write_rows}
        if not config.judges:
            return dataset.write(ds, out, **settings, max_set_aside=1.0, part=_TEXTS)
        classified = Artifact(out.sub(_CLASSIFIED), {}, {})
        ds = ds.map_batches(ensemble.keep_classifiers, batch_format="pyarrow")
        dataset.write(ds, classified, **settings)
        ds = dataset.read(classified.sub("data"), SCORED)
    return judge_rows(
        ds, out, config.judge, seed=config.seed, total=texts, write_rows=config.write_rows,
        names=ensemble.JUDGED,
        finish=partial(ensemble.combine, ensemble=config.ensemble, alone=not config.classifies),
    )  # fmt: skip


def _known(out: Artifact, repeats: Repeats, shared: Any) -> pa.Table:
    """What scoring added to each text that occurs more than once, in the order of `repeats.keys`."""
    found: list[pa.Table] = []
    for part in (_TEXTS, FIRST, AGAIN):
        counts = dataset.written(out, part) or dataset.Counts(0, 0)
        folders = [("data", counts.rows_out), ("set_aside", counts.set_aside)]
        for path in (out.sub(folder, part) for folder, rows in folders if rows):
            names = [n for n in dataset.columns(path) if n in ensemble.ADDED]
            scored = ray.data.read_parquet(dataset.files(path), columns=["id", *names, dataset.REASON])
            owned = scored.map_batches(
                stage_repeats.owned, fn_kwargs={"repeats": shared}, batch_format="pyarrow"
            )
            found += list(owned.iter_batches(batch_format="pyarrow", batch_size=None))
    return repeats.arrange([table for table in found if len(table)], out.path)
