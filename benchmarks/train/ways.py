"""A step of this loop with each precision, attention, compilation and number of workers, one thread each.

The fastest step is reported.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.train.model import batch_of, network
from benchmarks.train.settings import LENGTH, SHAPES, VOCABULARY, Row, TrainBenchmark
from safety_ray.core.ports import free_port
from safety_ray.train.optim import adamw
from safety_ray.train.parallel import shard
from safety_ray.train.settings import PretrainConfig
from safety_ray.train.step import backward, read, update


@dataclass(frozen=True, slots=True)
class Case:
    """A variant of the loop."""

    workers: int = 1
    precision: str = "bf16"
    attention: str = "eager"
    compile: bool = False

    def __str__(self) -> str:
        compiled = ", compiled" if self.compile else ""
        return f"{self.precision}, {self.attention} attention{compiled}, workers: {self.workers}"


def rows(config: TrainBenchmark) -> Iterator[Row]:
    """Yield the rows of the table."""
    base = Case()
    cases = [
        base,
        replace(base, attention="sdpa"),
        replace(base, precision="fp32"),
        replace(base, compile=True),
        replace(base, workers=config.workers),
    ]
    results = multiprocessing.get_context("spawn").SimpleQueue()
    first = 0.0
    for case in dict.fromkeys(cases):
        address = f"tcp://127.0.0.1:{free_port()}"
        spawn(_measure, (case, config, address, results), nprocs=case.workers)
        start, clock, cpu = results.get()
        against = f"{cpu / first:.2f} x the first (CPU time)" if first else ""
        first = first or cpu
        yield Row(f"7M: {case}", clock, cpu, against, f"first step {start:.1f} s")


def _measure(rank: int, case: Case, config: TrainBenchmark, address: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=case.workers)
    torch.manual_seed(0)
    model = network({**SHAPES["7M"], "attention": case.attention})
    if case.compile:
        for block in model.blocks:
            block.compile()
    shard(model, model.blocks, device="cpu", precision=case.precision)
    training = PretrainConfig(rows="", output="", batch_rows=config.batch_rows, workers=case.workers)
    optimizer = adamw(model, training)
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(VOCABULARY, (config.batch_rows // case.workers, LENGTH), generator=generator)
    batch = batch_of(ids)
    times: list[tuple[float, float]] = []
    for _ in range(config.steps + 1):
        clock, cpu = time.perf_counter(), time.process_time()
        sums = backward(model, batch, -1, training)
        update(optimizer, sums, 1e-3, grad_clip=training.grad_clip)
        read(sums)
        times.append((time.perf_counter() - clock, time.process_time() - cpu))
    fastest = torch.tensor([min(column) for column in zip(*times[1:], strict=True)])
    dist.all_reduce(fastest, dist.ReduceOp.MAX)  # the slowest worker's
    if rank == 0:
        clock, cpu = (config.batch_rows * LENGTH / fastest).tolist()
        results.put((times[0][0], clock, cpu))
    dist.destroy_process_group()
