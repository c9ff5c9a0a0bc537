"""Settings of the pool of classifier actors: size, device and batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safety_ray.classifier import packaged
from safety_ray.core.config import setting
from safety_ray.core.device import uses_gpus
from safety_ray.core.errors import UserError

SLOTS = 2
"""CPUs that stay free for reading and writing, without which the stream would stall"""
GPU_THREADS = 4
"""threads of the tokenizer of an actor on a GPU; one cannot keep a GPU busy"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Settings of every stage that classifies."""

    actors: int = setting(
        "maximum number of classifier actors; 0: as many as fit on the GPUs, or one per CPU except two",
        default=0,
        identity=False,
    )
    min_actors: int = setting(
        "minimum number of actors; the pool grows to `actors` while texts wait; 0: a fixed pool of `actors`",
        default=0,
        identity=False,
    )
    device: Literal["auto", "cpu", "gpu"] = setting(
        "auto: GPUs if the cluster has any now; gpu: wait for GPUs of an autoscaler",
        default="auto",
        identity=False,
    )
    gpus_per_actor: float = setting("share of a GPU per actor", default=0.5, identity=False)
    batch_rows: int = setting(
        "texts per call of an actor, which sorts them by length", default=512, identity=False
    )
    batch_tokens: int = setting(
        "tokens in one forward pass, padding included; 0: 2,048 on a CPU, 16,384 on a GPU",
        default=0,
        identity=False,
    )
    write_rows: int = setting(
        "rows in a file: the maximum that a failure repeats; 0: a thousandth of the dataset or 128 MB",
        default=0,
        identity=False,
    )

    trust_remote_code: bool = setting(packaged.TRUST, default=False, identity=False)

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or min(self.batch_tokens, self.write_rows) < 0:
            raise UserError("batch_rows must be positive, batch_tokens and write_rows 0 or positive.")
        if self.actors < 0 or self.min_actors < 0 or (self.actors and self.min_actors > self.actors):
            raise UserError(
                f"min_actors={self.min_actors} and actors={self.actors} must be 0 or positive, "
                "and min_actors at most actors."
            )
        if not 0 < self.gpus_per_actor <= 1:
            raise UserError(f"gpus_per_actor={self.gpus_per_actor} must be above 0 and at most 1.")

    def on_gpus(self, gpus: float) -> bool:
        """Return whether actors use GPUs in a cluster with `gpus`. Raises UserError if they cannot."""
        if self.device == "gpu" and not gpus and not self.actors:
            raise UserError(
                "device=gpu, but the cluster has no GPU: set actors to the number that an autoscaler "
                "should add GPUs for, or device=cpu."
            )
        return uses_gpus(self.device, gpus)

    def size(self, cpus: float, gpus: float, rows: int) -> tuple[int, int]:
        """Return (minimum, maximum) actors for `rows` texts: at most one per batch, as loading takes
        seconds.
        """
        room = int(cpus) - SLOTS
        if self.on_gpus(gpus):
            room = min(room, int(gpus / self.gpus_per_actor))
        maximum = max(1, min(self.actors or room, -(-rows // self.batch_rows)))
        return min(self.min_actors or maximum, maximum), maximum

    def cpus_per_actor(self, cpus: float, gpus: float, actors: int) -> int:
        """Return the CPUs and threads of each of `actors`: 1, or on GPUs up to four if there are enough.

        CPUs of an autoscaler's nodes are still to come if the cluster has too few GPUs for the actors.
        """
        if not self.on_gpus(gpus):
            return 1
        if gpus < actors * self.gpus_per_actor:
            return GPU_THREADS
        return max(1, min(GPU_THREADS, (int(cpus) - SLOTS) // actors))
