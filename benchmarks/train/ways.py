"""What a training step costs on this machine's CPU, by precision, attention, compilation and workers.

    python -m benchmarks.train                       # 4M parameters, 16 rows of 256 tokens, random ids
    python -m benchmarks.train layers=8 steps=20

Each row of the table is the fastest of `steps` steps of the real loop, in workers of one thread. By
CPU time means: as fast as a step would be if nothing else ran here; it leaves out waiting.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer, models
from torch.multiprocessing.spawn import spawn
from transformers import PreTrainedTokenizerFast

from safety_ray.config import setting
from safety_ray.errors import UserError
from safety_ray.job import main
from safety_ray.train.batches import Batch, document_positions, next_tokens
from safety_ray.train.model import build
from safety_ray.train.optim import adamw
from safety_ray.train.parallel import shard
from safety_ray.train.settings import ModelConfig, PretrainConfig
from safety_ray.train.step import backward, update


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBenchmark:
    """Measures training steps."""

    hidden_size: int = setting("width; the feed-forward is 2.7 times as wide", default=256)
    layers: int = setting("decoder blocks", default=4)
    vocab_size: int = setting("vocabulary", default=4096)
    row_length: int = setting("tokens of a row", default=256)
    batch_rows: int = setting("rows of a global batch", default=16)
    steps: int = setting("steps of which the fastest counts", default=8)
    workers: int = setting("most workers to try", default=2)

    def __post_init__(self) -> None:
        if self.steps < 2 or self.workers < 1 or self.batch_rows % self.workers:
            raise UserError("steps must be at least 2, and batch_rows divisible by workers.")


@dataclass(frozen=True, slots=True)
class Case:
    workers: int = 1
    precision: str = "bf16"
    attention: str = "eager"
    compile: bool = False


def run(config: TrainBenchmark) -> dict[str, Any]:
    one = Case()
    cases = [
        one,
        replace(one, attention="sdpa"),
        replace(one, precision="fp32"),
        replace(one, compile=True),
        replace(one, workers=config.workers),
    ]
    print("workers  precision  attention  compile  first step  tokens/s by clock  by CPU time")
    for case in dict.fromkeys(cases):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        spawn(_measure, (case, config, place), nprocs=case.workers)
    return {}


def _measure(rank: int, case: Case, config: TrainBenchmark, place: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=case.workers)
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(config.vocab_size)}, unk_token="w0"))
    shape = ModelConfig(
        hidden_size=config.hidden_size,
        layers=config.layers,
        intermediate_size=round(2.7 * config.hidden_size / 16) * 16,
        attention=case.attention,  # type: ignore[arg-type]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1")
    model = build(shape, tokenizer, context=config.row_length, device="cpu")
    if case.compile:
        for block in model.blocks:
            block.compile()
    shard(model, model.blocks, device="cpu", precision=case.precision)
    training = PretrainConfig(rows="", output="", batch_rows=config.batch_rows, workers=case.workers)
    optimizer = adamw(model, training)
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(
        config.vocab_size, (config.batch_rows // case.workers, config.row_length), generator=generator
    )
    targets, none = next_tokens(ids, torch.ones_like(ids, dtype=torch.bool)), torch.zeros_like(ids)
    batch = Batch(ids, targets, none, document_positions(none))
    times: list[tuple[float, float]] = []
    for _ in range(config.steps):
        clock, cpu = time.perf_counter(), time.process_time()
        backward(model, batch, -1, training)
        update(optimizer, 1e-3)
        times.append((time.perf_counter() - clock, time.process_time() - cpu))
    fastest = torch.tensor([min(column) for column in zip(*times[1:], strict=True)])
    dist.all_reduce(fastest, dist.ReduceOp.MAX)  # the slowest worker's
    if rank == 0:
        clock, cpu = (config.batch_rows * config.row_length / fastest).tolist()
        print(
            f"{case.workers:7}  {case.precision:>9}  {case.attention:>9}  {case.compile!s:>7}  "
            f"{times[0][0]:8.1f} s  {clock:17,.0f}  {cpu:11,.0f}",
            flush=True,
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(TrainBenchmark, run)
