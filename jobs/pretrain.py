"""token rows → model: the training loop runs in the workers of Ray Train.

<output>/model/              Hugging Face folder
<output>/checkpoints/        the newest `keep` checkpoints
<output>/metrics.jsonl       one line per `log_every` steps
<output>/validation.jsonl    one line per validated checkpoint
"""

from __future__ import annotations

import json
import tempfile
import threading
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.train import Checkpoint, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train import ValidationConfig as RayValidation
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from safety_ray.compat.ray_preemption import preempted_nodes
from safety_ray.core import artifact, cluster, filesystem, model_path, progress
from safety_ray.core.errors import DriverUnusable
from safety_ray.train import loggers
from safety_ray.train.checkpoint import check_own, names, remove_old, step_of
from safety_ray.train.data import TokenRows
from safety_ray.train.guard import Diverged
from safety_ray.train.loop import train
from safety_ray.train.metrics import Metrics, Validations
from safety_ray.train.model import check_continues, load_tokenizer
from safety_ray.train.resources import check_fits, uses_gpus
from safety_ray.train.settings import ModelConfig, PretrainConfig, TrainingConfig
from safety_ray.train.shared import NotShared, check_seen, marker
from safety_ray.train.validate import check, validate
from safety_ray.train.validation import ValidationConfig

__all__ = ["ModelConfig", "PretrainConfig", "pretrain_model"]
_CHECKPOINT_FILE = "checkpoint.json"


def pretrain_model(config: PretrainConfig) -> dict[str, Any]:
    """Train a model on `config.rows`. Returns the record; a finished folder is skipped."""
    rows, model = TokenRows(config.rows), config.model
    config.steps(len(rows))
    if model.init:
        check_continues(model.init, load_tokenizer(f"{config.rows}/tokenizer", "rows"), rows.length)
    out = begin(config, {"rows": config.rows, **model_path.as_input("model", model.init)})
    if out.record is not None:
        return out.record
    result = run_training(replace(config, output=out.path), model, rows)
    return out.commit(balanced=False, rows_in=len(rows), rows_out=1, **result)


def begin(config: TrainingConfig, inputs: dict[str, str]) -> artifact.Artifact:
    """Open the output folder, after checking that the workers fit the cluster."""
    if not artifact.is_finished(config.output):
        check_own(config.checkpoint_folder(), config.output)
        loggers.check(config.loggers, config.output)
        cluster.start(needs_cpus=False)
        total = ray.cluster_resources()
        if not config.autoscale:
            check_fits(config, cpus=int(total.get("CPU", 0)), gpus=int(total.get("GPU", 0)))
    return artifact.begin(config.output, config, inputs)


def run_training(config: TrainingConfig, model: ModelConfig, rows: TokenRows) -> dict[str, Any]:
    """Run the training loop in Ray Train's workers. Returns the loop's result.

    Ray Train replaces a lost worker, and all workers resume from the newest checkpoint. Raises DriverUnusable
    if Ray Train's controller ends: Ray keeps the CPUs and GPUs of its workers reserved until this driver
    ends, so a second controller could wait for them forever.
    """
    validating = bool(config.validation.every)
    if validating:
        check(config.validation, rows.path, config.seed)
        config = replace(config, validation=_with_absolute_paths(config.validation))
    if model.init:
        model = replace(model, init=_absolute(model_path.find(model.init, "model.init")))
    gpu = uses_gpus(config, ray.cluster_resources().get("GPU", 0))
    resources = {"CPU": config.cpus_per_worker, **({"GPU": 1} if gpu else {})}
    storage = f"{config.output}/ray"  # Ray Train's own state; not needed after the run
    metrics, validations = Metrics(config.output), Validations(config.output)

    def done() -> progress.Done:
        steps, tokens, summary = metrics.progress()
        return progress.Done(steps, f"{summary} {validations.summary()}".rstrip(), tokens=tokens)

    with (
        marker(config.output) as name,
        progress.watch("train", config.steps(len(rows)), done, unit="steps"),
    ):
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "config": config,
                "model": model,
                "rows": _absolute(rows.path),
                "marker": name,
            },
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=(config.min_workers, config.workers) if config.min_workers else config.workers,
                use_gpu=gpu,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name="train",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=config.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
            validation_config=validation_task(config, model, _absolute(rows.path)) if validating else None,
        )
        filesystem.remove(storage)
        try:
            result = fit_interruptibly(trainer)
        except RayActorError as error:
            raise DriverUnusable(
                "the controller of the training ended, perhaps for want of memory; run the same command "
                "again, which resumes."
            ) from error
    filesystem.remove(storage)
    returned: dict[str, Any] = result.return_value
    if "refused" in returned:
        raise returned["refused"]
    logged = returned.pop("validations")
    return returned | (finish_validation(config, logged) if validating else {})


def fit_interruptibly(trainer: TorchTrainer) -> Any:
    """Run `trainer.fit()` so that Ctrl-C raises KeyboardInterrupt here and ends the training.

    In the main thread Ray Train would replace the SIGINT handler, and exit the process with code 1.
    """
    outcome: Future[Any] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=fit, name="trainer.fit", daemon=True).start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        ray.shutdown()  # the workers must not continue without their driver
        raise


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the training loop in one worker."""
    # Steps are not reported to Ray Train, which accepts one report in two seconds and blocks faster workers;
    # metrics.jsonl has them. Checkpoints are reported if they are validated.
    config: TrainingConfig = settings["config"]
    torch.set_num_threads(config.cpus_per_worker)
    more: dict[str, Any] = {}
    validations = Validations(config.output)
    if config.validation.every:
        steps = config.steps(len(TokenRows(settings["rows"])))
        more = {"on_checkpoint": Reporter(config, steps), "validations": validations}
    try:
        check_seen("output", config.output, settings["marker"])  # the driver's file
        result = train(
            config, settings["model"], settings["rows"], device=get_device(), preempted=Preemption(), **more
        )
        return {**result, "validations": validations.seen}
    except (Diverged, NotShared) as error:  # raised by all workers, and every retry would raise it as well
        return {"refused": error}


class Preemption:
    """Callable: whether Ray announced since the last call that nodes of this training will be preempted."""

    def __init__(self) -> None:
        self.nodes: frozenset[str] = frozenset()

    def __call__(self) -> bool:
        nodes = preempted_nodes()
        new, self.nodes = bool(nodes - self.nodes), nodes
        return new


def _with_absolute_paths(config: ValidationConfig) -> ValidationConfig:
    documents = [_absolute(path) for path in config.documents]
    return replace(config, documents=documents, classifier=_absolute(config.classifier))


def _absolute(path: str) -> str:
    """Return the absolute path, for workers in other working directories; hub ids and URLs are unchanged."""
    return str(Path(path).resolve()) if path and "://" not in path and Path(path).exists() else path


class Reporter:
    """Reports checkpoints to Ray Train for validation; called in every worker."""

    def __init__(self, config: TrainingConfig, steps: int) -> None:
        self.config, self.steps = config, steps
        done = Validations(config.output).steps()
        # After the loss of a worker, Ray Train still has the reports of the workers before.
        earlier = {step_of(name) for name in names(config.checkpoint_folder())}
        self.waiting = {step for step in earlier - done if self._is_validated(step)}

    def _is_validated(self, step: int) -> bool:
        return step % (self.config.checkpoint_every * self.config.validation.every) == 0 or step == self.steps

    def __call__(self, step: int, path: str) -> frozenset[int]:
        """Report the checkpoint of `step`. Returns the reported steps that are not validated yet."""
        if not self._is_validated(step):
            return frozenset(self.waiting)
        done = Validations(self.config.output).steps()
        self.waiting -= done
        new = step not in done and ray.train.get_context().get_world_rank() == 0
        with tempfile.TemporaryDirectory() as folder:
            # Ray Train accepts only checkpoints in its own folder: report a file with the path of this one.
            (Path(folder) / _CHECKPOINT_FILE).write_text(json.dumps({"step": step, "path": path}))
            checkpoint = Checkpoint.from_directory(folder) if new else None
            ray.train.report({"step": step}, checkpoint=checkpoint, validation=new)
        if new:
            self.waiting.add(step)
        return frozenset(self.waiting)


def validation_task(config: TrainingConfig, model: ModelConfig, rows: str) -> RayValidation:
    """Return the task that Ray Train runs for each reported checkpoint, one at a time, during training."""
    return RayValidation(
        fn=partial(validate_checkpoint, config=config, model=model, rows=rows),
        ray_remote_kwargs={"num_cpus": 0},
    )


def validate_checkpoint(
    checkpoint: Checkpoint, *, config: TrainingConfig, model: ModelConfig, rows: str
) -> dict[str, Any]:
    """Validate a checkpoint in a task of its own, so that a crash or a timeout only costs a line."""
    with checkpoint.as_directory() as folder:
        reported = json.loads((Path(folder) / _CHECKPOINT_FILE).read_text())
    settings = config.validation
    task = (
        ray.remote(validate)
        .options(num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=0)
        .remote(settings, model, rows, config.seed, reported["path"])
    )
    try:
        values: dict[str, Any] = ray.get(task, timeout=settings.timeout_s)
    except GetTimeoutError:
        ray.cancel(task, force=True)
        values = {"error": f"not done after validation.timeout_s={settings.timeout_s:g} s"}
    except RayError as error:
        values = {"error": str(error).strip().splitlines()[-1]}
    validations = Validations(config.output)
    validations.append({"step": reported["step"], **values})
    validations.flush()
    return values


def finish_validation(config: TrainingConfig, logged: int) -> dict[str, Any]:
    """Log the validations that finished after the last step, and delete the checkpoints kept for them.

    Returns the newest line of validation.jsonl for the record, if there is one.
    """
    validations = Validations(config.output, seen=logged)
    late = validations.new()
    if late and config.loggers:
        with closing(loggers.Loggers(config.loggers, config.output, 0, {})) as run_loggers:
            for line in late:
                run_loggers.validated(line)
    remove_old(config.checkpoint_folder(), config.keep)
    lines = validations.lines()
    return {"validation": lines[-1]} if lines else {}


if __name__ == "__main__":
    from jobs.cli import main

    main("pretrain")
