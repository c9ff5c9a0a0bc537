"""Pretraining as a job: the training loop in the workers of Ray Train."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import ray
import torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.execution.context import get_train_context

from safety_ray import artifact, cluster, progress
from safety_ray.errors import UserError
from safety_ray.train import loggers, stage_validation
from safety_ray.train.data import TokenRows
from safety_ray.train.guard import Diverged
from safety_ray.train.loop import train
from safety_ray.train.metrics import Metrics, Validations
from safety_ray.train.model import check_continues, folder, load_tokenizer
from safety_ray.train.settings import ModelConfig, PretrainConfig, TrainingConfig
from safety_ray.train.validate import check
from safety_ray.train.validation import ValidationConfig

__all__ = ["ModelConfig", "PretrainConfig", "run"]


def run(config: PretrainConfig) -> dict[str, Any]:
    """Token rows -> <output>/model, with <output>/metrics.jsonl and <output>/checkpoints beside it."""
    rows, model = TokenRows(config.rows), config.model
    config.steps(len(rows))
    if model.init:
        check_continues(model.init, load_tokenizer(f"{config.rows}/tokenizer", "rows"), rows.length)
    out = begin(config, {"rows": config.rows, **model_input(model.init)})
    if out.record is not None:
        return out.record
    result = fit(replace(config, output=out.path), model, rows)
    return out.commit(balanced=False, rows_in=len(rows), rows_out=1, **result)


def begin(config: TrainingConfig, inputs: dict[str, str]) -> artifact.Artifact:
    """The output folder; only once it is sure that the workers fit, as settings cannot change later."""
    if artifact.read_record(config.output) is None:
        loggers.check(config.loggers)
        cluster.start()
        _check_workers_fit(config)
    return artifact.begin(config.output, config, inputs)


def _check_workers_fit(config: TrainingConfig) -> None:
    total = ray.cluster_resources()
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    if config.autoscale:
        return
    workers = config.min_workers or config.workers
    beside = config.validation.cpus if config.validation.every else 0
    needed = workers * config.cpus_per_worker + beside
    if needed > cpus:
        raise UserError(
            f"{'min_' * bool(config.min_workers)}workers={workers} with "
            f"cpus_per_worker={config.cpus_per_worker}"
            f"{f' and validation.cpus={beside}' * bool(beside)} need "
            f"{needed} CPUs and the cluster has {cpus}; take fewer, or set "
            "autoscale=true where the cluster grows on demand."
        )
    if config.validation.every and config.validation.gpus > gpus:
        raise UserError(
            f"validation.gpus={config.validation.gpus:g} and the cluster has {gpus}; 0 validates on CPUs."
        )
    if config.device == "gpu" and config.workers > gpus:
        raise UserError(
            f"workers={config.workers} need {config.workers} GPUs and the cluster has {gpus}; "
            "take fewer, or device=cpu."
        )


def fit(config: TrainingConfig, model: ModelConfig, rows: TokenRows) -> dict[str, Any]:
    """Run the loop in Ray Train's workers and return what it returns.

    A lost worker is replaced, and all go on from the newest checkpoint.
    """
    validating = bool(config.validation.every)
    if validating:
        check(config.validation, rows.path, config.seed)
        config = replace(config, validation=_with_absolute_paths(config.validation))
    model = replace(model, init=_absolute(folder(model.init)))
    gpu = config.device == "gpu" or (
        config.device == "auto" and ray.cluster_resources().get("GPU", 0) >= config.workers
    )
    resources = {"CPU": config.cpus_per_worker, **({"GPU": 1} if gpu else {})}
    storage = Path(config.output) / "ray"  # Ray Train's own notes; nothing that has to be kept
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "config": config,
            "model": model,
            "rows": _absolute(rows.path),
        },
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(config.min_workers, config.workers) if config.min_workers else config.workers,
            use_gpu=gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=config.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
        validation_config=stage_validation.tasks(config, model, _absolute(rows.path)) if validating else None,
    )
    metrics, validations = Metrics(config.output), Validations(config.output)

    def done() -> tuple[int, str]:
        steps, note = metrics.progress()
        return steps, f"{note} {validations.words()}".rstrip()

    with progress.watch("train", config.steps(len(rows)), done, unit="steps"), _own_interrupt():
        shutil.rmtree(storage, ignore_errors=True)
        result = trainer.fit()
        if result.return_value is None:  # Ray Train takes Ctrl-C for itself and ends without an error
            raise KeyboardInterrupt
    shutil.rmtree(storage, ignore_errors=True)
    if "diverged" in result.return_value:
        raise Diverged(result.return_value["diverged"])
    returned: dict[str, Any] = result.return_value
    logged = returned.pop("validations")
    return returned | (stage_validation.end(config, logged) if validating else {})


def _work(settings: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs."""
    # Steps are not reported to Ray Train: it takes one report in two seconds and makes faster workers
    # wait, and what it would be told is in metrics.jsonl. Checkpoints are, where they are validated.
    config: TrainingConfig = settings["config"]
    torch.set_num_threads(config.cpus_per_worker)
    more: dict[str, Any] = {}
    validations = Validations(config.output)
    if config.validation.every:
        steps = config.steps(len(TokenRows(settings["rows"])))
        more = {"whole": stage_validation.Reporter(config, steps), "validations": validations}
    try:
        result = train(
            config, settings["model"], settings["rows"], device=get_device(), going=_Preemption(), **more
        )
        return {**result, "validations": validations.seen}
    except Diverged as error:  # the same again in every try: no reason to replace the workers
        return {"diverged": str(error)}


class _Preemption:
    """Whether Ray has said, since it was last asked, that nodes of this training will go.

    It is read where Ray Train keeps it for the worker: the public call waits for all workers in each
    step, and the loop makes them agree anyway.
    """

    def __init__(self) -> None:
        self.nodes: frozenset[str] = frozenset()

    def __call__(self) -> bool:
        told = get_train_context().preemption_context.preemption_info
        nodes = frozenset(told.preempted_node_ids) if told else frozenset()
        new, self.nodes = bool(nodes - self.nodes), nodes
        return new


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Give Ctrl-C back to whoever had it: Ray Train keeps it for the rest of the process."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def model_input(path: str) -> dict[str, str]:
    """The model `path` as an input with a fingerprint; none for a hub id."""
    fs, root = fsspec.core.url_to_fs(folder(path))
    return {"model": folder(path)} if path and fs.exists(root) else {}


def _with_absolute_paths(config: ValidationConfig) -> ValidationConfig:
    documents = [_absolute(path) for path in config.documents]
    return replace(config, documents=documents, classifier=_absolute(config.classifier))


def _absolute(path: str) -> str:
    """`path` as a worker in another working directory finds it; a hub id stays what it is."""
    return str(Path(path).resolve()) if path and "://" not in path and Path(path).exists() else path
