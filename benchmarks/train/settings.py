"""What the training benchmark is told, and the lines of its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError

PARTS = ("peers", "ways", "waits", "packing")
VOCABULARY, LENGTH = 8192, 256
SHAPES: dict[str, dict[str, Any]] = {
    "7M": {"hidden_size": 256, "layers": 6, "heads": 4, "kv_heads": 4, "intermediate_size": 688},
    "30M": {"hidden_size": 512, "layers": 8, "heads": 8, "kv_heads": 8, "intermediate_size": 1376},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBenchmark:
    """Measures training on this machine's CPU, and packing."""

    parts: list[str] = setting("what to measure", factory=lambda: list(PARTS))
    batch_rows: int = setting("rows of 256 tokens in a step", default=8)
    steps: int = setting("steps of a turn; the first one warms up", default=4)
    rounds: int = setting("turns of each trainer", default=3)
    workers: int = setting("most workers to try", default=2)
    run_steps: int = setting("steps of the run whose waiting is measured", default=60)
    checkpoint_every: int = setting("steps from checkpoint to checkpoint of that run", default=20)
    texts: str = setting(
        "JSONL file whose rows have a text, for packing; empty: the shipped corpus", default=""
    )
    documents: int = setting("texts to pack", default=1000)

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"unknown parts {unknown}: use some of {', '.join(PARTS)}.")
        if self.steps < 2 or self.rounds < 1 or self.workers < 1 or self.batch_rows % self.workers:
            raise UserError("steps must be at least 2, rounds 1, and batch_rows divisible by workers.")
        if self.run_steps < 2 * self.checkpoint_every or self.documents < 1:
            raise UserError("run_steps must hold two checkpoints at least, and documents one text.")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; tokens a second by the clock and by CPU time."""

    what: str
    clock: float | None
    cpu: float | None
    against: str = ""
    note: str = ""

    def line(self) -> str:
        figures = ["" if value is None else f"{value:,.0f}" for value in (self.clock, self.cpu)]
        return f"| {self.what} | {figures[0]} | {figures[1]} | {self.against} | {self.note} |"
