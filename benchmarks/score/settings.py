"""What the scoring benchmark is told, and how it measures: CPU time beside the clock's."""

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
    """Measures what scoring costs."""

    data: str = setting("folder of real data: web/ and toxicity/")
    classifier: str = setting("folder of a finished fit", default="")
    parts: list[str] = setting("what to measure", factory=lambda: list(PARTS))
    documents: int = setting("real documents, as many of each source", default=400)
    sources: list[str] = setting(
        "where they are from",
        factory=lambda: ["web articles", "news", "comments", "forum posts"],
    )
    rounds: int = setting("times that each way is measured, in turns; the median counts", default=3)
    actors: list[int] = setting("sizes of the pool that the job is measured with", factory=lambda: [1, 2])
    store_mb: int = setting("Ray's object store in the memory part", default=256)
    corpus_mb: int = setting("Parquet text in the memory part", default=1024)

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"unknown parts {unknown}: use some of {', '.join(PARTS)}.")
        if not Path(self.data, "web").is_dir():
            raise UserError(f"data={self.data} holds no web/.")
        if not self.classifier and {"encoder", "job", "memory"} & set(self.parts):
            raise UserError("classifier: give the folder of a finished fit.")


@dataclass(slots=True)
class Cost:
    """Seconds by the clock and of CPUs, bytes of memory at the peak."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

    def of(self, work: float) -> str:
        """`work` per second, as two cells of a table: of CPU time, by the clock."""
        return f"{work / statistics.median(self.cpu):,.0f} | {work / statistics.median(self.wall):,.0f}"


def in_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Each way `rounds` times, one after the other, in this process."""
    found = {name: Cost() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            found[name].wall.append(time.perf_counter() - wall)
            found[name].cpu.append(time.process_time() - cpu)
    return found


@contextmanager
def all_processes(cost: Cost) -> Iterator[None]:
    """Adds what this process and all below it (Ray's among them) cost; looked at five times a second."""
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


def _family() -> list[psutil.Process]:
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def _cpu() -> dict[int, float]:
    found = {}
    for process in _family():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found[process.pid] = times.user + times.system
    return found


def _memory() -> int:
    """Bytes that these processes hold, what they share counted once."""
    total = 0
    for process in _family():
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total
