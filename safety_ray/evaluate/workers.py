"""A pool of actors that answer prompts, read documents and judge, whose finished tasks are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import ray
from ray.util import ActorPool

from safety_ray.classifier import packaged
from safety_ray.core import artifact, cluster, filesystem
from safety_ray.core.progress import Line
from safety_ray.evaluate import model
from safety_ray.evaluate.ability import AbilityTask
from safety_ray.evaluate.config import EvaluateConfig
from safety_ray.evaluate.tasks import Task
from safety_ray.evaluate.worker import JudgeTask, Worker, WorkerSettings


class Workers:
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
