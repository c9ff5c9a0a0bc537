"""The pool of classifiers: how many actors, on what, and what each is handed at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError

SLOTS = 2
"""CPUs that stay free for reading and writing, or the stream never moves"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Settings of every stage that classifies."""

    actors: int = setting(
        "classifier actors at most; 0: one per share of a GPU, or one per CPU but two where there is none",
        default=0,
        identity=False,
    )
    min_actors: int = setting(
        "actors that stay; more come, up to `actors`, as texts pile up; 0: all stay",
        default=0,
        identity=False,
    )
    device: Literal["auto", "cpu", "gpu"] = setting(
        "auto: GPUs where the cluster has some now; gpu: wait for those that an autoscaler brings",
        default="auto",
        identity=False,
    )
    gpus_per_actor: float = setting(
        "share of a GPU that an actor takes, where there are GPUs", default=1.0, identity=False
    )
    batch_rows: int = setting(
        "texts handed to an actor at a time, and sorted by length there", default=512, identity=False
    )
    batch_tokens: int = setting(
        "tokens in one forward pass, padding included; 0: 2,048 on a CPU, 16,384 on a GPU",
        default=0,
        identity=False,
    )
    write_rows: int = setting(
        "rows in a write task; a failure repeats few of them", default=256, identity=False
    )

    def __post_init__(self) -> None:
        if min(self.batch_rows, self.write_rows) < 1 or self.batch_tokens < 0:
            raise UserError("batch_rows and write_rows must be positive, and batch_tokens not below 0.")
        if self.actors < 0 or self.min_actors < 0 or (self.actors and self.min_actors > self.actors):
            raise UserError(
                f"min_actors={self.min_actors} and actors={self.actors} must not be negative, "
                "and min_actors not above actors."
            )
        if not 0 < self.gpus_per_actor <= 1:
            raise UserError(f"gpus_per_actor={self.gpus_per_actor} must lie above 0 and be at most 1.")

    def on_gpus(self, found: float) -> bool:
        """Whether actors take GPUs, in a cluster that counts `found` of them; UserError where none can."""
        if self.device == "gpu" and not found and not self.actors:
            raise UserError(
                "device=gpu, and the cluster counts no GPU: set actors to how many an autoscaler "
                "should make room for, or device=cpu."
            )
        return self.device == "gpu" or (self.device == "auto" and found > 0)

    def size(self, cpus: float, gpus: float, rows: int) -> tuple[int, int]:
        """(min, max) actors for `rows` texts: one takes seconds to load, so no more than batches."""
        room = int(gpus / self.gpus_per_actor) if self.on_gpus(gpus) else int(cpus) - SLOTS
        most = max(1, min(self.actors or room, -(-rows // self.batch_rows)))
        return min(self.min_actors or most, most), most
