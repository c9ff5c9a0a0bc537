"""model and prompts → answers with each decoder, judged; P(tag) and perplexity of documents.

<output>/results.jsonl    one row per prompt and decoder: prompt, answer, P(tag), verdicts of every judge
<output>/metrics.json     all metrics
<output>/README.md        rates with intervals, next to the measured error of each judge
<output>/evaluate.png     bar chart of the rates
<output>/signal.png       P(tag) of documents: calibration, and how early it rises
<output>/rejected/        prompts that do not fit the model's context, and answers without a verdict
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
from ray.util import ActorPool

from safety_ray.classifier import packaged
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import artifact, cluster, dataset, filesystem, model_path
from safety_ray.core.progress import Line
from safety_ray.evaluate import (
    ability,
    asking,
    decoders,
    documents,
    figure,
    lm_judging,
    measure,
    metrics,
    model,
    page,
    prompts,
    results,
    signal,
    signal_page,
    tasks,
)
from safety_ray.evaluate.ability import AbilityTask
from safety_ray.evaluate.config import EvaluateConfig
from safety_ray.evaluate.documents import Chosen
from safety_ray.evaluate.endpoint import Endpoint
from safety_ray.evaluate.judges import JUDGES
from safety_ray.evaluate.judges.harm_classifier import describe
from safety_ray.evaluate.prompt_sets import DOCUMENTS, Prompt
from safety_ray.evaluate.reading import Reading
from safety_ray.evaluate.tasks import Task
from safety_ray.evaluate.worker import JudgeTask, Worker, WorkerSettings, judge_tasks
from safety_ray.llm import engine

__all__ = ["EvaluateConfig", "evaluate_model"]


def evaluate_model(config: EvaluateConfig) -> dict[str, Any]:
    """Answer prompts, judge the answers, read documents. Returns the record; a finished folder is skipped."""
    inputs = _inputs(config)
    described = None if artifact.is_finished(config.output) else _check(config)
    out = artifact.begin(config.output, config, inputs=inputs, temporary=("parts", "data"))
    if out.record is not None:
        return out.record
    workers = _Workers(config, described, out)
    values: dict[str, Any] = {}
    try:
        if config.answers:
            rows, too_long = results.read(config.answers), 0
            values |= results.training_size(config.answers)
        elif described is None:
            rows, too_long, values = _ask(config, out)
        else:
            rows, too_long, values = _answer(config, described, workers, out)
        if config.compare_to:
            rows = results.with_compared(rows, config.compare_to)
            values["compared_to"] = config.compare_to
        rows = _judge(config, rows, workers, out)
    finally:
        workers.stop()
    models = {name: _model_of_judge(config, name) for name in config.judges}
    table = measure.rate_table(rows, models, seed=config.seed, resamples=config.resamples)
    differences = measure.difference_table(rows, seed=config.seed, resamples=config.resamples)
    judges = measure.judge_errors(models)
    values |= measure.headline(table, differences, [name for name in judges if judges[name]["trusted"]])
    values |= {"judges": judges, "rates": table, "differences": differences}
    values["warnings"] = page.warnings(values)
    _write(out, rows, values, title=config.model or config.endpoint.model or config.answers)
    prompts = len({(row["prompt_set"], row["kind"], row["id"]) for row in rows})
    return out.commit(rows_in=prompts + too_long, rows_out=prompts, rejected=too_long, results=values)


def _check(config: EvaluateConfig) -> model.Description | None:
    """Raise UserError for what would fail in an actor. Returns the description of the model, if any."""
    if config.needs("classifier"):
        Classifier.load(config.classifier, "cpu", trust_remote_code=config.trust_remote_code)
    if config.needs("lm"):
        engine.check(config.lm)
    ability.check(config.lm_tasks)
    return model.describe(config.model, config.tag) if config.model else None


def _model_of_judge(config: EvaluateConfig, name: str) -> str:
    """Return the model of a judge as its measurements name it."""
    if JUDGES[name].needs == "classifier":
        return describe(config.classifier, config.judge_from)
    return config.lm.label if JUDGES[name].needs == "lm" else ""


def _inputs(config: EvaluateConfig) -> dict[str, str]:
    inputs = prompts.inputs(config.documents, config.prompt_sets, config.data)
    inputs |= {f"lm_tasks.{task}": task for task in config.lm_tasks if ability.is_file(task)}
    if config.needs("classifier"):
        inputs |= packaged.as_input(config.classifier)
    if config.compare_to:
        inputs["compare_to"] = config.compare_to
    if config.answers:
        return inputs | {"answers": config.answers}
    return inputs | model_path.as_input("model", config.model)


def choose_samples(config: EvaluateConfig) -> tuple[Chosen | None, prompts.Samples]:
    """Return the documents, if there are any, and the prompts. Raises UserError if there are not enough."""
    chosen = documents.choose(
        config.documents, safe_up_to=config.safe_up_to, unsafe_from=config.unsafe_from,
        limit=config.max_documents, seed=config.seed, source=config.source, group=config.group,
        category=config.category,
    ) if config.documents else None  # fmt: skip
    names = config.prompt_sets or ([DOCUMENTS] if config.documents else [])
    samples = prompts.choose(
        names, config.data, chosen,
        words=config.prompt_words, limit=config.max_prompts, seed=config.seed,
        skip=config.skip_prompts, columns=config.prompt_columns,
    )  # fmt: skip
    return chosen, samples


def _ask(config: EvaluateConfig, out: artifact.Artifact) -> tuple[list[results.Row], int, dict[str, Any]]:
    """Return the endpoint's answers, the number of prompts that it refused, and the counts of prompts."""
    endpoint = Endpoint(config.endpoint)
    names = endpoint.choose(config.decoders)
    _, samples = choose_samples(config)
    rows, refused = asking.ask(
        endpoint, prompts.flat(samples), names, config.decoding(None, frozenset()),
        chat=config.chat, seed=config.seed, samples=config.samples, parts=out.sub("parts"),
    )  # fmt: skip
    _reject([({"endpoint": config.endpoint.model}, row["prompt"], row["reason"]) for row in refused], out)
    gone = {(row["prompt"].prompt_set, row["prompt"].kind, row["prompt"].id) for row in refused}
    answered = [p for p in prompts.flat(samples) if (p.prompt_set, p.kind, p.id) not in gone]
    return rows, len(refused), {"prompts": prompts.counts(samples, answered, "refused")}


def _reject(rows: list[tuple[dict[str, Any], Prompt, str]], out: artifact.Artifact) -> None:
    """Write prompts that were not answered, with more columns and the reason of each."""
    if rows:
        table = [{**asdict(prompt), **more, dataset.REASON: reason} for more, prompt, reason in rows]
        dataset.write_table(pa.Table.from_pylist(table), out.sub("rejected", "prompts.parquet"))


def _answer(
    config: EvaluateConfig, described: model.Description, workers: _Workers, out: artifact.Artifact
) -> tuple[list[results.Row], int, dict[str, Any]]:
    """Return the answers, the number of prompts that do not fit, and the metrics of the documents."""
    names = decoders.choose(config.decoders, described.tag_id)
    chosen, samples = choose_samples(config)
    both = [*chosen.safe, *chosen.unsafe] if chosen else []
    encoded = tasks.encode_prompts(
        described, prompts.flat(samples), max_new_tokens=config.max_new_tokens, chat=config.chat
    )
    answering = tasks.answer_tasks(
        encoded, names, size=config.prompts_at_once, seed=config.seed, samples=config.samples
    )
    reading = tasks.read_tasks(described, both, document_tokens=config.document_tokens)
    results_of = workers.run([*answering, *reading], "answer", "answers and documents")
    able = [AbilityTask(ability.absolute(task), config.lm_limit, config.seed) for task in config.lm_tasks]
    abilities = workers.run(able, "ability", "tasks") if able else {}
    rows = results.make_rows(
        encoded.prompts,
        {name: tasks.rows_of(answering, results_of, name) for name in names},
        {name: tasks.seeds_of(answering, name) for name in names},
        chat=config.chat,
    )
    reason = f"with max_new_tokens={config.max_new_tokens}, the prompt exceeds the model's context"
    _reject([({"tokens": n}, p, reason) for p, n in encoded.too_long], out)
    values: dict[str, Any] = {"prompts": prompts.counts(samples, encoded.prompts)}
    values |= model.training_size(config.model)
    if able:
        values["ability"] = {
            name: metrics for [tasks_of] in abilities.values() for name, metrics in tasks_of.items()
        }
    if chosen:
        readings = [Reading(**row) for row in tasks.rows_of(reading, results_of, tasks.READ)]
        values |= metrics.reading_metrics(both, readings, seed=config.seed, resamples=config.resamples)
        if described.tag_id is not None:
            ends = tasks.word_ends(described, both, document_tokens=config.document_tokens)
            values["signal"] = signal.signal_metrics(
                signal.signals(both, readings, ends),
                tag_rate=config.tag_rate or model.tag_rate(config.model),
                false_alarms=config.stop_false_alarms, seed=config.seed, resamples=config.resamples,
            )  # fmt: skip
        values["counts"] = {
            "safe_documents": len(chosen.safe),
            "unsafe_documents": len(chosen.unsafe),
            "tokens": sum(reading.tokens for reading in readings),
        }
    return rows, len(encoded.too_long), values


def _judge(
    config: EvaluateConfig, rows: list[results.Row], workers: _Workers, out: artifact.Artifact
) -> list[results.Row]:
    """Return the rows with the verdicts of all judges."""
    answers = results.answers_of(rows)
    own = {name: judge_tasks(name, answers) for name in config.judges if JUDGES[name].make}
    results_of = workers.run([task for group in own.values() for task in group], "judge", "verdicts")
    workers.stop()  # an engine may need their CPUs and GPUs
    if config.needs("lm"):
        cluster.start()
    verdicts = {
        name: [row for task in own[name] for row in results_of[task.name]]
        if name in own
        else lm_judging.judge_answers(name, answers, config.lm, out, config.seed)
        for name in config.judges
    }
    return results.add_verdicts(rows, verdicts)


def _write(out: artifact.Artifact, rows: list[results.Row], values: dict[str, Any], title: str) -> None:
    fs, root = filesystem.find(out.path)
    results.write(out.sub(results.FILE), rows)
    fs.pipe_file(f"{root}/metrics.json", json.dumps(values, indent=1, ensure_ascii=False).encode())
    readme = page.readme(title, values)
    if values.get("signal"):
        readme += "\n".join(["", "## P(tag)", "", *signal_page.lines(values["signal"]), ""])
    if values.get("ability"):
        readme += "\n".join(["", "## General ability", "", *ability.lines(values["ability"]), ""])
    fs.pipe_file(f"{root}/README.md", readme.encode())
    fs.pipe_file(f"{root}/evaluate.png", figure.plot(values))
    if values.get("signal"):
        fs.pipe_file(f"{root}/signal.png", signal_page.plot(values["signal"]))


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
            trust_remote_code=config.trust_remote_code,
            judge_from=config.judge_from,
            threads=config.cpus_per_worker,
            device="cuda" if config.gpus_per_worker else "cpu",
        )

    def run(
        self, todo: Sequence[Task | JudgeTask | AbilityTask], label: str, unit: str
    ) -> dict[str, list[Any]]:
        """Return the rows of each task by its name."""
        fs, root = filesystem.find(self.out.sub("parts"))
        fs.makedirs(root, exist_ok=True)
        done: dict[str, list[Any]] = {
            task.name: json.loads(fs.cat_file(f"{root}/{task.name}"))
            for task in todo
            if fs.exists(f"{root}/{task.name}")
        }
        remaining = [task for task in todo if task.name not in done]
        earlier = sum(map(len, done.values()))
        line = Line(label, sum(task.size for task in todo), unit=unit, first=earlier)
        if remaining:
            pool = ActorPool(self._start(len(remaining)))
            for name, rows in pool.map_unordered(_submit, remaining):
                filesystem.write_file(fs, f"{root}/{name}", json.dumps(rows).encode())
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
            cluster.start(needs_cpus=False)
            actor = ray.remote(
                num_cpus=config.cpus_per_worker,
                num_gpus=config.gpus_per_worker,
                max_restarts=2,
                max_task_retries=2,
            )(Worker)
            number = min(tasks, config.workers)
            if not config.autoscale:  # an actor that never starts would never end its tasks
                number = min(number, _max_actors(config))
            self.actors = [actor.remote(self.settings) for _ in range(number)]
        return self.actors


def _submit(worker: Any, task: Task | JudgeTask | AbilityTask) -> Any:
    return worker.run.remote(task)


def _max_actors(config: EvaluateConfig) -> int:
    """Return how many actors fit the cluster now; at least one, which may wait for a node."""
    resources: dict[str, float] = ray.cluster_resources()
    limit = resources.get("CPU", 0.0) / config.cpus_per_worker
    if config.gpus_per_worker:
        limit = min(limit, resources.get("GPU", 0.0) / config.gpus_per_worker)
    return max(1, math.floor(limit))


if __name__ == "__main__":
    from jobs.cli import main

    main("evaluate")
