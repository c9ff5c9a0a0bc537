"""scored → rewritten: rephrase documents of score 1-3, turn those of 4-5 into refusals and moral education.

    <output>/data/<part>/          accepted texts
    <output>/rejected/<part>/      rejected texts, each with its reason
    <output>/drafts/               rows that the steps of a pass store; removed at the end

Tasks run in passes, one for each kind of task, document length and attempt:

    part               tasks                                     prompt
    direct             documents                                 recipes that read documents: rephrase, refuse
    direct_long        documents longer than max_chars           rephrase, chunk by chunk
    direct_2           rejected tasks of direct                  another style and sampler seed
    direct_long_2      rejected tasks of direct_long             another style and sampler seed
    moralize...        accepted refusals, so it runs last        moralize
    ..._template       tasks of the template, if the engine does not write all

A pass is the list of steps in `steps_of`. A stored step is written to disk before the next one starts: a
language model and the classifier never share memory, and a failed run keeps every reply it has paid for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from jobs.label import count_shortened, judge_rows
from jobs.score import classify
from safety_ray.classifier import packaged
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import artifact, cluster, dataset, exchange, filesystem, partition, progress, threshold
from safety_ray.core.artifact import Artifact
from safety_ray.core.dataset import Counts
from safety_ray.core.errors import UserError
from safety_ray.core.records import REWRITTEN, SCORED_TEXT, Column, schema
from safety_ray.core.worker_deaths import Watch
from safety_ray.judge import ensemble
from safety_ray.llm import engine
from safety_ray.rewrite import drafts, estimate, outcomes, tasks
from safety_ray.rewrite.compare import ScoreAndCompare
from safety_ray.rewrite.passes import DIRECT, Pass, passes_of
from safety_ray.rewrite.recipes import RECIPES, write_from_template
from safety_ray.rewrite.settings import RewriteConfig

__all__ = ["RewriteConfig", "rewrite_documents"]
_DRAFTS, _GENERATED, _JUDGED = "drafts", "generated", "judged"
_WRITING = "waiting for the engine's first replies"
_DOCUMENTS_PER_BLOCK = 2_000
"""documents whose chunks are joined in one block"""
_ACCEPTED = (*REWRITTEN, Column("root_id", pa.string(), "the web document"))
_EMPTY = schema((*_ACCEPTED, Column("engine", pa.string(), ""))).empty_table()
_ARROW: Any = {"batch_format": "pyarrow"}


def rewrite_documents(config: RewriteConfig) -> dict[str, Any]:
    """Rewrite `config.scored`. Returns the record, or the estimate of a dry run."""
    config = partition.of(config, "scored")
    if not artifact.is_finished(config.output) or config.dry_run:
        # fail here, not in an actor
        Classifier.load(config.classifier, "cpu", trust_remote_code=config.trust_remote_code)
        engine.check(config.engine)
        if config.judge.is_model:
            engine.check(config.judge)
    inputs = {"scored": config.scored, **packaged.as_input(config.classifier)}
    recipe_of = config.recipe_of()
    more: dict[str, Any] = {}
    if config.thresholds_from:
        inputs["thresholds_from"] = config.thresholds_from
        more["threshold"] = threshold.audited(config.thresholds_from)
        scores = " and ".join(f"{name}_scores={config.scores_of(name)}" for name in config.document_recipes)
        recipe_of = config.recipe_of(more["threshold"])
        if not recipe_of:
            raise UserError(
                f"thresholds_from: the audit's threshold {more['threshold']} is above all of {scores}."
            )
    if config.dry_run:
        cluster.start()
        return dry_run(config, recipe_of)
    out = artifact.begin(config.output, config, inputs=inputs, temporary=(_DRAFTS, outcomes.OUTCOMES))
    if out.record is not None:
        return out.record
    cluster.start()
    rows_in, counts = run_passes(config, recipe_of, out)
    attempts = outcomes.read_outcomes(out, (this.part for this in passes_of(config)))
    if config.engine.is_model:
        more |= outcomes.count_tokens(out.sub(_DRAFTS, _GENERATED))
    if config.judge.is_model:
        folders = [judged(out, this) for this in passes_of(config)]
        more["judge_shortened"] = sum(count_shortened(folder, ensemble.JUDGED) for folder in folders)
    if not counts.rows_out:  # the next stage cannot read a folder without Parquet files
        dataset.write_table(_EMPTY, out.sub("data", "empty.parquet"))
    engines = outcomes.count_engines(out)
    return out.commit(
        rows_in=rows_in, rows_out=counts.rows_out, rejected=counts.rejected,
        engine=config.engine.label, engines=engines, attempts=attempts, **more,
        **partition.record("rewrite", dataset.files, config.scored),
    )  # fmt: skip


def run_passes(config: RewriteConfig, recipe_of: dict[int, str], out: Artifact) -> tuple[int, Counts]:
    """Run all passes. Returns (number of tasks, counts)."""

    def documents(written: RewriteConfig) -> Dataset:
        make = partial(tasks.from_documents, recipe_of=recipe_of, options=written.task_options())
        return dataset.read(config.scored, SCORED_TEXT).map_batches(make, **_ARROW)

    def accepted(written: RewriteConfig, recipe: str) -> Dataset:
        make = partial(tasks.from_accepted, recipe=recipe, options=written.task_options())
        return dataset.read(out.sub("data"), _ACCEPTED).map_batches(make, **_ARROW)

    writers = config.writers

    def run(
        kind: str, first_tasks: Callable[[RewriteConfig], Dataset], tasks_of: Mapping[str, int]
    ) -> Counts:
        counts = Counts(0, 0)
        for template, written in writers.items():
            total = round(sum(config.writes(recipe, template) * n for recipe, n in tasks_of.items()))
            select = partial(
                tasks.select_writer,
                share=config.engine_share, recipes=config.by_engine, seed=config.seed, template=template,
            )  # fmt: skip

            def selected(written: RewriteConfig = written, select: Any = select) -> Dataset:
                first = first_tasks(written)
                return first.map_batches(select, **_ARROW) if len(writers) > 1 else first

            if any(config.writes(recipe, template) for recipe in tasks_of):
                counts += run_attempts(written, out, kind, selected, "id", total, template)
        return counts

    documents_of: Counter[str] = Counter()
    for (score,), rows in dataset.count_groups(config.scored, ["score"]).items():
        if score in recipe_of:
            documents_of[recipe_of[score]] += rows
    total = sum(documents_of.values())
    counts = run(DIRECT, documents, documents_of) if total else Counts(0, 0)
    for recipe in config.derived_recipes if counts.rows_out else ():
        texts = dataset.count_where(out.sub("data"), "recipe", [RECIPES[recipe].reads])
        if texts:
            counts += run(recipe, partial(accepted, recipe=recipe), {recipe: texts})
        total += texts
    dataset.check_share(out.path, counts, config.max_rejected)
    return total, counts


def run_attempts(
    config: RewriteConfig,
    out: Artifact,
    kind: str,
    first_tasks: Callable[[], Dataset],
    source_id: str,
    total: int,
    template: bool = False,
) -> Counts:
    """Run the passes of one kind. Each attempt after the first gets the tasks that the one before rejected.

    `source_id` is the name of the tasks' source id in the dataset that `first_tasks` reads.
    """
    counts = Counts(0, 0)
    for long in (False, True):
        rejected = 0
        for attempt in range(1, config.attempts + 1):
            this, before = (Pass(kind, long, n, template) for n in (attempt, attempt - 1))
            done = dataset.written(out, this.part)
            if done is None and attempt == 1:
                done = run_pass(config, out, this, first_tasks(), source_id, total)
            elif done is None and not rejected:
                break
            elif done is None:
                retried = dataset.read(
                    out.sub("rejected", before.part), (tasks.REJECTED_SOURCE,)
                ).map_batches(partial(tasks.from_rejected, options=config.task_options(attempt)), **_ARROW)
                done = run_pass(config, out, this, retried, "source_id", rejected)
            if attempt > 1:
                outcomes.drop_retried(out, before.part)
            counts, rejected = counts + Counts(done.rows_out, 0), done.rejected
        counts += Counts(0, rejected)
    return counts


@dataclass(frozen=True, slots=True)
class Rows:
    """A stream of rows, and how a resumed run recognizes rows that are already written."""

    ds: Dataset
    total: int
    """expected number of rows"""
    resume_by: str
    """column of the written rows that identifies them"""
    read_as: str
    """name of that column in the dataset that `ds` reads"""


def run_pass(
    config: RewriteConfig, out: Artifact, this: Pass, ds: Dataset, source_id: str, total: int
) -> Counts:
    """Generate, score and accept or reject the texts of one pass. Returns the counts of its part."""
    config = replace(config, write_rows=dataset.llm_rows(config.write_rows, total))
    if this.attempt == 1:  # the source of a later attempt lacks white space, so its length may be another one
        select = partial(tasks.select_length, long=this.long, max_chars=config.max_chars)
        ds = ds.map_batches(select, **_ARROW)
    rows = Rows(ds, total, resume_by="source_id", read_as=source_id)
    for step in steps_of(config, this):
        rows = step.apply(rows)
        if step.stored:
            stored = store(config, out, this, step, rows)
            if stored is None:  # no task of this kind
                dataset.mark_written(out, this.part)
                return Counts(0, 0)
            rows = stored
        if step.judged:
            rows = judge(config, out, this, rows)
    return dataset.write(
        rows.ds, out, label=this.part, total=rows.total, write_rows=config.write_rows,
        max_rejected=1.0, resume_by=rows.resume_by, read_as=rows.read_as, part=this.part,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a pass: rows in, rows out."""

    name: str
    apply: Callable[[Rows], Rows]
    stored: bool = False
    """write the rows to drafts/<name>/<part>, and read the next step's rows from there"""
    judged: bool = False
    """send the stored rows to the judge"""


def steps_of(config: RewriteConfig, this: Pass) -> list[Step]:
    """Return the steps of a pass in their order. Input: tasks; output: rows of the part."""
    uses_model = config.engine.is_model
    uses_judge = config.judge.is_model

    def split(rows: Rows) -> Rows:
        options = config.task_options(this.attempt)
        chunks = rows.ds.map_batches(partial(tasks.split_documents, options=options), **_ARROW)
        # A document becomes several rows, so no column identifies them: a failed run splits it again.
        return Rows(chunks, 0, resume_by="", read_as="")

    def generate(rows: Rows) -> Rows:
        return replace(rows, ds=generate_drafts(rows.ds, config, this.attempt))

    def join(rows: Rows) -> Rows:
        number, files = rows.total // _DOCUMENTS_PER_BLOCK + 1, rows.total // config.write_rows + 1
        joined = exchange.by_key(rows.ds, tasks.DOCUMENT_TASK, number, drafts.join_chunks, inputs=files)
        return replace(rows, ds=joined, read_as=tasks.DOCUMENT_TASK)

    def score(rows: Rows) -> Rows:
        # The template engine keeps sentences of the source, so similarity needs no check.
        compares = config.accept.compares and uses_model
        actor = ScoreAndCompare if compares else None
        scored = classify(
            rows.ds, config, config.classifier, rows.total, watch=Watch(), actor=actor
        ).map_batches(partial(drafts.note_unscored, reason_column=dataset.REASON), **_ARROW)
        if uses_judge:
            scored = scored.map_batches(ensemble.keep_classifier_score, **_ARROW)
        return replace(rows, ds=scored)

    def accept(rows: Rows) -> Rows:
        decide = partial(drafts.accept_drafts, bounds=config.accept, reason_column=dataset.REASON)
        return replace(rows, ds=rows.ds.map_batches(decide, **_ARROW))

    return [
        *([Step("chunks", split, stored=True)] if this.long else []),
        Step(_GENERATED, generate, stored=uses_model or this.long),
        *([Step("joined", join)] if this.long else []),
        Step("scored", score, stored=uses_judge, judged=uses_judge),
        Step("accepted", accept),
    ]


def generate_drafts(ds: Dataset, config: RewriteConfig, attempt: int) -> Dataset:
    """Generate and parse a reply for each task."""
    # Blocks of a write task's size: the unit that actors share, and the most that a failure repeats.
    ds = ds.repartition(target_num_rows_per_block=config.write_rows, strict=True)
    template = partial(write_from_template, seed=config.seed + attempt - 1)
    generate = engine.processor(config.engine_of(attempt), template=template)
    return generate(ds).map_batches(drafts.parse_replies, **_ARROW)


def store(config: RewriteConfig, out: Artifact, this: Pass, step: Step, rows: Rows) -> Rows | None:
    """Write `rows` below drafts/ and read them back. Returns None if there are none."""
    folder = Artifact(out.sub(_DRAFTS, step.name, this.part), {}, {})
    by_model = step.name == _GENERATED and config.engine.is_model
    counts = dataset.write(
        rows.ds, folder, label=f"{this.part} {step.name}", total=rows.total or None,
        write_rows=config.write_rows, resume_by=rows.resume_by or None, read_as=rows.read_as or None,
        waiting=_WRITING if by_model else progress.STARTING,
    )  # fmt: skip
    if not counts.rows_out:
        return None
    return Rows(dataset.read(folder.sub("data"), ()), counts.rows_out, resume_by="id", read_as="id")


def judge(config: RewriteConfig, out: Artifact, this: Pass, rows: Rows) -> Rows:
    """Add the judge's score and take the higher of both. Rows without a judgement get a null score."""
    folder = judged(out, this)
    judge_rows(
        rows.ds, folder, config.judge, seed=config.seed, total=rows.total, write_rows=config.write_rows,
        names=ensemble.JUDGED, by_chunks=True,
        finish=partial(ensemble.combine, ensemble="max", judge_only=False),
    )  # fmt: skip
    return replace(rows, ds=dataset.read(folder.path, ()))


def judged(out: Artifact, this: Pass) -> Artifact:
    """Return the folder of the judged drafts of a pass."""
    return Artifact(out.sub(_DRAFTS, _JUDGED, this.part), {}, {})


def dry_run(config: RewriteConfig, recipe_of: dict[int, str]) -> dict[str, Any]:
    """Rewrite a sample into `<output>.dry-run`, then estimate and print what the full run would take."""
    if config.engine.kind == "template":
        raise UserError("dry_run measures a language model; set engine.kind to vllm or openai.")
    # Documents that only the template writes cost nothing.
    read = {RECIPES[name].reads for name in config.derived_recipes if name in config.by_engine}
    recipe_of = {score: name for score, name in recipe_of.items() if name in read | {*config.by_engine}}
    folder = f"{config.output}.dry-run"
    filesystem.remove(folder)
    sample = estimate.sample_documents(config, recipe_of)
    if not len(sample):
        raise UserError(f"'{config.scored}' has no document with one of the scores {sorted(recipe_of)}.")
    dataset.write_table(sample, f"{folder}/sample/sample.parquet")
    out = Artifact(f"{folder}/rewritten", {}, {})
    batch_size = max(config.engine.batch_size, len(sample))
    one_engine = replace(config.engine, batch_size=batch_size, concurrency=1, max_concurrency=0)
    settings = replace(
        config, scored=f"{folder}/sample", output=out.path, engine=one_engine, engine_share=1.0, dry_run=False
    )
    _, counts = run_passes(settings, recipe_of, out)
    documents = {
        score: round(config.engine_share * dataset.count_where(config.scored, "score", [score]))
        for score in sorted(recipe_of)
    }
    usage = dataset.table(out.sub(_DRAFTS, _GENERATED), estimate.USAGE_COLUMNS)
    values = estimate.estimate(config, recipe_of, documents, sample, usage) | {
        "accepted_share": round(counts.rows_out / max(1, counts.rows_out + counts.rejected), 3),
        "sample": folder,
    }
    fs, root = filesystem.find(folder)
    with fs.open(f"{root}/estimate.json", "w") as file:
        json.dump(values, file, indent=1)
    print(estimate.format_estimate(values), flush=True)
    return values


if __name__ == "__main__":
    from jobs.cli import main

    main("rewrite")
