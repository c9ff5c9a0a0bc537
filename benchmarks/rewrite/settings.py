"""The settings of the rewriting benchmark, the result of a run, and the clock of CPU time."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass

import psutil

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError

PARTS = ("vllm", "openai", "acceptance")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewriteBenchmark:
    """Measure the engines of rewriting."""

    parts: list[str] = setting(f"parts to measure: {', '.join(PARTS)}", factory=lambda: list(PARTS))
    classifier: str = setting("folder of a finished fit, for acceptance", default="")
    prompts: int = setting("documents", default=96)
    new_tokens: int = setting("tokens of each reply", default=64)
    seqs: int = setting("concurrent replies", default=16)
    hidden: int = setting("width of the model: 512 gives 30M parameters", default=512)
    rounds: int = setting("measurements of each method", default=3)

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"parts: unknown part '{unknown[0]}'; choose from {', '.join(PARTS)}.")
        if "acceptance" in self.parts and not self.classifier:
            raise UserError(
                "classifier: give the folder of a finished fit, or leave acceptance out of parts."
            )
        if min(self.prompts, self.new_tokens, self.seqs, self.rounds) < 1:
            raise UserError("prompts, new_tokens, seqs and rounds must be positive.")


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of one method."""

    tokens: int
    seconds: float
    cpu: float
    cached: float | None = None
    """share of the prompt tokens that came from the prefix cache"""


class Clock(threading.Thread):
    """CPU seconds of this process and its children, sampled ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = [time.time()]
        self.used: list[float] = [0.0]
        self.known: dict[int, float] = {}
        self.start()

    def run(self) -> None:
        while True:
            for process in (me := psutil.Process(), *me.children(recursive=True)):
                try:
                    cpu = process.cpu_times()
                    self.known[process.pid] = cpu.user + cpu.system
                except psutil.Error:
                    continue
            self.used.append(sum(self.known.values()))
            self.times.append(time.time())
            time.sleep(0.1)

    def between(self, start: float, end: float) -> float:
        """Return the CPU seconds between two times."""
        time.sleep(0.3)
        first, last = (min(bisect_left(self.times, t), len(self.times) - 1) for t in (start, end))
        return self.used[last] - self.used[first]
