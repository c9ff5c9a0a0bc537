"""Settings of the training benchmark, and the rows of its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError

PARTS = ("peers", "ways", "head", "waits", "packing")
VOCABULARY, LENGTH = 8192, 256
SHAPES: dict[str, dict[str, Any]] = {
    "7M": {"hidden_size": 256, "layers": 6, "heads": 4, "kv_heads": 4, "intermediate_size": 688},
    "30M": {"hidden_size": 512, "layers": 8, "heads": 8, "kv_heads": 8, "intermediate_size": 1376},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBenchmark:
    """Measure training on this machine's CPU, and packing."""

    parts: list[str] = setting("parts of the benchmark", factory=lambda: list(PARTS))
    batch_rows: int = setting("rows of 256 tokens per step", default=8)
    steps: int = setting("steps per round; the first one is a warmup", default=4)
    rounds: int = setting("rounds per trainer", default=3)
    workers: int = setting("largest number of workers", default=2)
    run_steps: int = setting("steps of the run in part waits", default=60)
    checkpoint_every: int = setting("steps between checkpoints of this run", default=20)
    texts: str = setting(
        "JSONL file of rows with a text, for part packing; empty: the shipped corpus", default=""
    )
    documents: int = setting("texts to pack", default=1000)

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"parts: unknown {', '.join(unknown)}; choose from {', '.join(PARTS)}.")
        if self.steps < 2 or self.rounds < 1 or self.workers < 1 or self.batch_rows % self.workers:
            raise UserError("steps must be at least 2, rounds 1, and batch_rows divisible by workers.")
        if self.run_steps < 2 * self.checkpoint_every or self.documents < 1:
            raise UserError("run_steps must be at least 2 * checkpoint_every, and documents at least 1.")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: tokens per second of wall time and of CPU time."""

    what: str
    clock: float | None
    cpu: float | None
    against: str = ""
    note: str = ""

    def line(self) -> str:
        """Return the row in Markdown."""
        speeds = ["" if value is None else f"{value:,.0f}" for value in (self.clock, self.cpu)]
        return f"| {self.what} | {speeds[0]} | {speeds[1]} | {self.against} | {self.note} |"
