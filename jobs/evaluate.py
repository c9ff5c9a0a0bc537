"""model and prompts → answers with each decoder, judged; P(tag) and perplexity of documents.

<output>/results.jsonl    one row per prompt and decoder: prompt, answer, P(tag), verdicts of every judge
<output>/metrics.json     all metrics
<output>/README.md        rates with intervals, next to the measured error of each judge
<output>/evaluate.png     bar chart of the rates
<output>/rejected/        prompts that do not fit the model's context, and answers without a verdict
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import ray
from ray.util import ActorPool

from safety_ray.classifier import packaged
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import artifact, cluster, dataset, filesystem
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.progress import Line
from safety_ray.evaluate import (
    decoders,
    documents,
    figure,
    judges,
    lm_judging,
    measure,
    metrics,
    model,
    page,
    prompt_sets,
    prompts,
    results,
    tasks,
)
from safety_ray.evaluate.decoders import DECODERS
from safety_ray.evaluate.documents import Document
from safety_ray.evaluate.judges import JUDGES
from safety_ray.evaluate.judges.harm_classifier import describe
from safety_ray.evaluate.prompt_sets import DOCUMENTS
from safety_ray.evaluate.reading import Reading
from safety_ray.evaluate.settings import Decoding, MeasurementConfig
from safety_ray.evaluate.tasks import Task
from safety_ray.evaluate.worker import JudgeTask, Worker, WorkerSettings, judge_tasks
from safety_ray.judge.settings import Judge, check_is_model
from safety_ray.llm import engine


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(MeasurementConfig):
    """Measure any model: harmful answers and refusals, P(tag) if it has the tag, perplexity."""

    model: str = setting(
        "Hugging Face folder or hub id, or output folder of pretrain or finetune", default=""
    )
    answers: str = setting(
        "instead of model: output folder of an earlier evaluation, or a results.jsonl, to judge its answers "
        "again",
        default="",
    )
    output: str = setting("folder to write", identity=False)
    prompt_sets: list[str] = setting(
        f"{DOCUMENTS} (beginnings of documents), files of your own (.csv or .jsonl with a column 'prompt') "
        f"or published sets below data: {prompt_sets.summary()}; empty: {DOCUMENTS}",
        factory=list,
    )
    data: str = setting("folder with the files of the published sets", default="", identity=False)
    documents: list[str] = setting(
        "datasets that the model was not trained on, with id, text and label or score; of duplicate ids the "
        "first row is used",
        factory=list,
    )
    max_prompts: int = setting("maximum prompts of each set and kind; 0: all", default=40)
    chat: bool = setting(
        f"answer prompts in the tokenizer's chat template, except those of {DOCUMENTS}", default=False
    )
    decoders: list[str] = setting(
        f"of {', '.join(DECODERS)}; empty: beam, and safebeam if the model has the tag", factory=list
    )
    temperature: float = setting("temperature of the decoder sample", default=1.0)
    top_k: int = setting("most likely tokens that the decoder sample considers", default=50)
    top_p: float = setting("share of their probability that the decoder sample considers", default=1.0)
    judges: list[str] = setting(
        f"of {', '.join(JUDGES)}; the first one is plotted",
        factory=lambda: ["harm_classifier", "refusal"],
    )
    classifier: str = setting(
        f"the classifier of the judge harm_classifier; {packaged.SETTING}", default=packaged.DEFAULT
    )
    lm: Judge = setting("the language model of the judges whose names end in _lm", factory=Judge)
    tag: str = setting(
        "the harmfulness tag; empty: the one stored with the model's tokenizer, else <|harmful|> if the "
        "tokenizer has it",
        default="",
    )
    seed: int = setting("seed of the samples, the decoder sample and the intervals", default=0)
    resamples: int = setting("resamples for the intervals", default=10_000)
    workers: int = setting(
        "actors with a copy of the model each; limited by the cluster's CPUs and GPUs",
        default=2,
        identity=False,
    )
    cpus_per_worker: int = setting("CPUs and threads per actor", default=1, identity=False)
    gpus_per_worker: float = setting("GPUs per actor; 0: runs on the CPU", default=0.0, identity=False)
    prompts_at_once: int = setting("prompts per batch of a decoder", default=4)

    def __post_init__(self) -> None:
        self.check()
        if bool(self.model) == bool(self.answers):
            raise UserError("model: give a model, or answers of an earlier evaluation to judge again.")
        if self.answers and (self.documents or self.prompt_sets):
            raise UserError("answers: cannot be combined with documents or prompt_sets; leave them empty.")
        prompt_sets.check_names(self.prompt_sets)
        if DOCUMENTS in self.prompt_sets and not self.documents:
            raise UserError(
                f"documents is empty, but prompt_sets has {DOCUMENTS}; give at least one dataset."
            )
        if self.model and not self.documents and not self.prompt_sets:
            raise UserError("documents is empty, and so is prompt_sets; give at least one of them.")
        decoders.check_names(self.decoders)
        for name in self.judges:
            judges.find(name)
        if not self.judges or len(set(self.judges)) < len(self.judges):
            raise UserError(f"judges={self.judges} must have at least one judge, and each once.")
        if self.needs("lm"):
            check_is_model(self.lm, "lm")
        for name in ("resamples", "workers", "cpus_per_worker", "prompts_at_once"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.max_prompts < 0:
            raise UserError(f"max_prompts={self.max_prompts} must be at least 0.")
        if self.gpus_per_worker < 0:
            raise UserError(f"gpus_per_worker={self.gpus_per_worker} must be at least 0.")
        for decoder in DECODERS.values():  # raises for values out of range
            decoder.make_search(self.decoding(-1, frozenset()), 0)

    def needs(self, what: str) -> bool:
        """Return whether one of the judges needs a `classifier` or an `lm`."""
        return any(JUDGES[name].needs == what for name in self.judges)

    def decoding(self, tag_id: int | None, eos_ids: frozenset[int]) -> Decoding:
        """Return the settings of the decoders."""
        return replace(
            MeasurementConfig.decoding(self, tag_id, eos_ids),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )


def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Answer prompts, judge the answers, read documents. Returns the record; a finished folder is skipped."""
    out = artifact.begin(config.output, config, inputs=_inputs(config))
    if out.record is not None:
        return out.record
    if config.needs("classifier"):
        Classifier.load(config.classifier, "cpu")  # fail here rather than in an actor
    if config.needs("lm"):
        engine.check(config.lm)
    described = model.describe(config.model, config.tag) if config.model else None
    workers = _Workers(config, described, out)
    values: dict[str, Any] = {}
    try:
        if described is None:
            rows, too_long = results.read(config.answers), 0
        else:
            rows, too_long, values = _answer(config, described, workers, out)
        rows = _judge(config, rows, workers, out)
    finally:
        workers.stop()
    models = {name: _model_of_judge(config, name) for name in config.judges}
    table = measure.rate_table(rows, models, seed=config.seed, resamples=config.resamples)
    differences = measure.difference_table(rows, seed=config.seed, resamples=config.resamples)
    values |= measure.headline(table, differences)
    values |= {"judges": measure.judge_errors(models), "rates": table, "differences": differences}
    _write(out, rows, values, title=config.model or config.answers)
    prompts = len({(row["prompt_set"], row["kind"], row["id"]) for row in rows})
    record = out.commit(rows_in=prompts + too_long, rows_out=prompts, rejected=too_long, results=values)
    for leftover in ("parts", "data"):
        filesystem.remove(out.sub(leftover))
    return record


def choose_samples(config: EvaluateConfig) -> tuple[list[Document], list[Document], prompts.Samples]:
    """Return safe documents, unsafe documents and prompts. Raises UserError if there are not enough."""
    safe, unsafe = documents.choose(
        config.documents, safe_up_to=config.safe_up_to, unsafe_from=config.unsafe_from,
        limit=config.max_documents, seed=config.seed, source=config.source, group=config.group,
    ) if config.documents else ([], [])  # fmt: skip
    samples = prompts.choose(
        config.prompt_sets or [DOCUMENTS], config.data, safe, unsafe,
        words=config.prompt_words, limit=config.max_prompts, seed=config.seed,
    )  # fmt: skip
    return safe, unsafe, samples


def _model_of_judge(config: EvaluateConfig, name: str) -> str:
    """Return the model of a judge as its measurements name it."""
    if JUDGES[name].needs == "classifier":
        return describe(config.classifier, config.judge_from)
    return config.lm.label if JUDGES[name].needs == "lm" else ""


def _inputs(config: EvaluateConfig) -> dict[str, str]:
    inputs = {f"documents.{n}": path for n, path in enumerate(config.documents)}
    inputs |= {f"prompt_sets.{path}": path for path in prompt_sets.own_files(config.prompt_sets)}
    if config.needs("classifier"):
        inputs |= packaged.as_input(config.classifier)
    if config.answers:
        return inputs | {"answers": config.answers}
    return inputs | artifact.local_input("model", config.model)


def _answer(
    config: EvaluateConfig, described: model.Description, workers: _Workers, out: artifact.Artifact
) -> tuple[list[results.Row], int, dict[str, Any]]:
    """Return the answers, the number of prompts that do not fit, and the metrics of the documents."""
    names = decoders.choose(config.decoders, described.tag_id)
    safe, unsafe, samples = choose_samples(config)
    encoded = tasks.encode_prompts(
        described, prompts.flat(samples), max_new_tokens=config.max_new_tokens, chat=config.chat
    )
    answering = tasks.answer_tasks(encoded, names, size=config.prompts_at_once, seed=config.seed)
    reading = tasks.read_tasks(described, [*safe, *unsafe], document_tokens=config.document_tokens)
    found = workers.run([*answering, *reading], "answer", "answers and documents")
    rows = results.make_rows(
        encoded.prompts,
        {name: tasks.rows_of(answering, found, name) for name in names},
        {name: tasks.seeds_of(answering, name) for name in names},
        chat=config.chat,
    )
    if encoded.too_long:
        reason = f"with max_new_tokens={config.max_new_tokens}, the prompt exceeds the model's context"
        rejected = [{**asdict(p), "tokens": n, dataset.REASON: reason} for p, n in encoded.too_long]
        dataset.write_table(pa.Table.from_pylist(rejected), out.sub("rejected", "prompts.parquet"))
    values: dict[str, Any] = {"prompts": prompts.counts(samples, encoded.prompts)}
    if safe:
        readings = [Reading(**row) for row in tasks.rows_of(reading, found, tasks.READ)]
        values |= metrics.reading_metrics(
            [*safe, *unsafe], readings, seed=config.seed, resamples=config.resamples
        )
        values["counts"] = {
            "safe_documents": len(safe),
            "unsafe_documents": len(unsafe),
            "tokens": sum(reading.tokens for reading in readings),
        }
    return rows, len(encoded.too_long), values


def _judge(
    config: EvaluateConfig, rows: list[results.Row], workers: _Workers, out: artifact.Artifact
) -> list[results.Row]:
    """Return the rows with the verdicts of all judges."""
    answers = results.answers_of(rows)
    own = {name: judge_tasks(name, answers) for name in config.judges if JUDGES[name].make}
    found = workers.run([task for group in own.values() for task in group], "judge", "verdicts")
    workers.stop()  # an engine may need their CPUs and GPUs
    if config.needs("lm"):
        cluster.start()
    verdicts = {
        name: [row for task in own[name] for row in found[task.name]]
        if name in own
        else lm_judging.judge_answers(name, answers, config.lm, out, config.seed)
        for name in config.judges
    }
    return results.add_verdicts(rows, verdicts)


def _write(out: artifact.Artifact, rows: list[results.Row], values: dict[str, Any], title: str) -> None:
    fs, root = filesystem.find(out.path)
    results.write(out.sub(results.FILE), rows)
    fs.pipe_file(f"{root}/metrics.json", json.dumps(values, indent=1, ensure_ascii=False).encode())
    fs.pipe_file(f"{root}/README.md", page.readme(title, values).encode())
    fs.pipe_file(f"{root}/evaluate.png", figure.plot(values))


class _Workers:
    """Actors that run tasks, started when the first one is needed; finished tasks are kept in parts/."""

    def __init__(
        self, config: EvaluateConfig, described: model.Description | None, out: artifact.Artifact
    ) -> None:
        self.config, self.out = config, out
        self.actors: list[Any] = []
        self.settings = WorkerSettings(
            model=described.folder if described else "",
            decoding=config.decoding(described.tag_id if described else None, frozenset()),
            # An actor may have another working directory.
            classifier=packaged.absolute(config.classifier),
            judge_from=config.judge_from,
            threads=config.cpus_per_worker,
            device="cuda" if config.gpus_per_worker else "cpu",
        )

    def run(self, todo: Sequence[Task | JudgeTask], label: str, unit: str) -> dict[str, list[Any]]:
        """Return the rows of each task by its name."""
        fs, root = filesystem.find(self.out.sub("parts"))
        fs.makedirs(root, exist_ok=True)
        done: dict[str, list[Any]] = {
            task.name: json.loads(fs.cat_file(f"{root}/{task.name}"))
            for task in todo
            if fs.exists(f"{root}/{task.name}")
        }
        remaining = [task for task in todo if task.name not in done]
        line = Line(label, sum(task.size for task in todo), unit=unit)
        if remaining:
            pool = ActorPool(self._start(len(remaining)))
            for name, rows in pool.map_unordered(_submit, remaining):
                fs.pipe_file(f"{root}/{name}.part", json.dumps(rows).encode())
                fs.mv(f"{root}/{name}.part", f"{root}/{name}")
                done[name] = rows
                line.show(sum(map(len, done.values())))
        line.show(sum(map(len, done.values())), final=True)
        return done

    def stop(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def _start(self, tasks: int) -> list[Any]:
        config = self.config
        if not self.actors:
            cluster.start()
            actor = ray.remote(
                num_cpus=config.cpus_per_worker,
                num_gpus=config.gpus_per_worker,
                max_restarts=2,
                max_task_retries=2,
            )(Worker)
            number = min(tasks, config.workers, _max_actors(config))
            self.actors = [actor.remote(self.settings) for _ in range(number)]
        return self.actors


def _submit(worker: Any, task: Task | JudgeTask) -> Any:
    return worker.run.remote(task)


def _max_actors(config: EvaluateConfig) -> int:
    """Return how many actors fit the cluster; at least one, which may wait for an autoscaled node."""
    resources: dict[str, float] = ray.cluster_resources()
    limit = resources.get("CPU", 0.0) / config.cpus_per_worker
    if config.gpus_per_worker:
        limit = min(limit, resources.get("GPU", 0.0) / config.gpus_per_worker)
    return max(1, math.floor(limit))


if __name__ == "__main__":
    from jobs.cli import main

    main("evaluate")
