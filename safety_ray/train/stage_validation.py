"""Checkpoints measured beside training: Ray Train's validation tasks, and who tells them what."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError, RayError
from ray.train import Checkpoint
from ray.train import ValidationConfig as RayValidation

from safety_ray.train import loggers
from safety_ray.train.checkpoint import remove_old
from safety_ray.train.metrics import Validations
from safety_ray.train.settings import ModelConfig, TrainingConfig
from safety_ray.train.validate import validate

_NOTE = "checkpoint.json"


class Reporter:
    """Tells Ray Train of each checkpoint that is to be validated; called in every worker."""

    def __init__(self, config: TrainingConfig, steps: int) -> None:
        self.config, self.steps = config, steps
        self.waiting: set[int] = set()

    def __call__(self, step: int, path: str) -> frozenset[int]:
        """Report the checkpoint of `step`; returns the steps that were reported and not measured yet."""
        each = self.config.checkpoint_every * self.config.validation.every
        if step % each and step != self.steps:
            return frozenset(self.waiting)
        done = Validations(self.config.output).steps()
        self.waiting -= done
        new = step not in done and ray.train.get_context().get_world_rank() == 0
        with tempfile.TemporaryDirectory() as folder:
            # Ray Train takes checkpoints of its own folder alone, so it gets a note of where this one lies.
            (Path(folder) / _NOTE).write_text(json.dumps({"step": step, "path": path}))
            note = Checkpoint.from_directory(folder) if new else None
            ray.train.report({"step": step}, checkpoint=note, validation=new)
        if new:
            self.waiting.add(step)
        return frozenset(self.waiting)


def tasks(config: TrainingConfig, model: ModelConfig, rows: str) -> RayValidation:
    """What Ray Train does with each reported checkpoint: one task at a time, while training goes on."""
    return RayValidation(
        fn=partial(_validated, config=config, model=model, rows=rows), ray_remote_kwargs={"num_cpus": 0}
    )


def _validated(note: Checkpoint, *, config: TrainingConfig, model: ModelConfig, rows: str) -> dict[str, Any]:
    """Has another task measure the checkpoint, so that one that dies or hangs is a line and not the end."""
    with note.as_directory() as folder:
        told = json.loads((Path(folder) / _NOTE).read_text())
    asked = config.validation
    task = (
        ray.remote(validate)
        .options(num_cpus=asked.cpus, num_gpus=asked.gpus, max_retries=0)
        .remote(asked, model, rows, config.seed, told["path"])
    )
    try:
        figures: dict[str, Any] = ray.get(task, timeout=asked.timeout_s)
    except GetTimeoutError:
        ray.cancel(task, force=True)
        figures = {"error": f"not done after validation.timeout_s={asked.timeout_s:g} s"}
    except RayError as error:
        figures = {"error": str(error).strip().splitlines()[-1]}
    Validations(config.output).append({"step": told["step"], **figures})
    return figures


def end(config: TrainingConfig, logged: int) -> dict[str, Any]:
    """When all is measured: log what came after the last step, and remove the checkpoints kept for it.

    Returns the newest line of validation.jsonl for the record, where there is one.
    """
    validations = Validations(config.output, seen=logged)
    late = validations.new()
    if late and config.loggers:
        with closing(loggers.Loggers(config.loggers, config.output, 0, {})) as others:
            for line in late:
                others.validated(line)
    remove_old(config.checkpoint_folder(), config.keep)
    lines = validations.lines()
    return {"validation": lines[-1]} if lines else {}
