"""Settings of the scoring benchmark, and measurement of wall time, CPU time and memory."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError

PARTS = ("encoder", "job", "ngrams", "memory")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreBenchmark:
    """Measure the cost of scoring."""

    data: str = setting("folder of real data with web/ and toxicity/")
    classifier: str = setting("folder of a finished fit", default="")
    parts: list[str] = setting("parts to measure", factory=lambda: list(PARTS))
    documents: int = setting("number of real documents, the same for each source", default=400)
    sources: list[str] = setting(
        "sources of the documents",
        factory=lambda: ["web articles", "news", "comments", "forum posts"],
    )
    rounds: int = setting("alternating rounds; the median is reported", default=3)
    actors: list[int] = setting("pool sizes of the job", factory=lambda: [1, 2])
    store_mb: int = setting("Ray's object store in the memory part", default=256)
    corpus_mb: int = setting("Parquet text in the memory part", default=1024)

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"parts: unknown part {unknown[0]!r}; choose from {', '.join(PARTS)}.")
        if not Path(self.data, "web").is_dir():
            raise UserError(f"data={self.data} has no folder web/.")
        if not self.classifier and {"encoder", "job", "memory"} & set(self.parts):
            raise UserError("classifier: give the folder of a finished fit.")


@dataclass(slots=True)
class Cost:
    """Wall seconds, CPU seconds and peak memory in bytes."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

    def of(self, work: float) -> str:
        """Return `work` per CPU second and per wall second, as two cells of a table."""
        return f"{work / statistics.median(self.cpu):,.0f} | {work / statistics.median(self.wall):,.0f}"


def measure_alternately(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Run all variants in this process, `rounds` times in order."""
    costs = {name: Cost() for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            costs[name].wall.append(time.perf_counter() - wall)
            costs[name].cpu.append(time.process_time() - cpu)
    return costs


@contextmanager
def all_processes(cost: Cost) -> Iterator[None]:
    """Add the cost of this process and all its descendants, Ray's included, sampled five times a second."""
    stop, start = threading.Event(), time.perf_counter()
    before, last = _cpu(), {}
    last |= before

    def watch() -> None:
        while not stop.wait(0.2):
            last.update(_cpu())
            cost.peak = max(cost.peak, _memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        last.update(_cpu())
        cost.wall.append(time.perf_counter() - start)
        cost.cpu.append(sum(last.values()) - sum(before.values()))


def _processes() -> list[psutil.Process]:
    process = psutil.Process()
    return [process, *process.children(recursive=True)]


def _cpu() -> dict[int, float]:
    seconds = {}
    for process in _processes():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        seconds[process.pid] = times.user + times.system
    return seconds


def _memory() -> int:
    """Return the bytes of all processes; shared memory is counted once."""
    total = 0
    for process in _processes():
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total
