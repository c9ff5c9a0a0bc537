"""This loop and other trainers, alternately in separate processes; the fastest step is reported."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.train.model import batch_of, network
from benchmarks.train.settings import LENGTH, SHAPES, VOCABULARY, Row, TrainBenchmark
from safety_ray.core.job import quiet

Steps = Callable[[int], list[tuple[float, float]]]


def rows(config: TrainBenchmark) -> Iterator[Row]:
    """Yield the rows of the table."""
    trainers = {"this loop": _ours, "transformers Trainer": _trainer, "LitGPT": _litgpt}
    if importlib.util.find_spec("litgpt") is None:
        del trainers["LitGPT"]
    for size in SHAPES:
        times_of: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
        for _ in range(config.rounds):
            for name, make in trainers.items():
                times_of[name] += _measure(make, size, config)
        ours = 0.0
        for name, times in times_of.items():
            clock, cpu = (config.batch_rows * LENGTH / min(column) for column in zip(*times, strict=True))
            against = f"this loop is {ours / cpu:.2f} x as fast (CPU time)" if ours else ""
            ours = ours or cpu
            yield Row(f"{size}: {name}", clock, cpu, against)
    if "LitGPT" not in trainers:
        yield Row("LitGPT", None, None, "not installed: pip install --target FOLDER litgpt lightning")


def _measure(make: Any, size: str, config: TrainBenchmark) -> list[tuple[float, float]]:
    receiver, sender = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(make, size, config, sender))
    process.start()
    times: list[tuple[float, float]] = receiver.recv()
    process.join()
    return times


def _work(make: Any, size: str, config: TrainBenchmark, out: Connection) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    quiet()
    ids = torch.randint(VOCABULARY, (config.batch_rows, LENGTH))
    with contextlib.redirect_stdout(io.StringIO()):
        times = make(SHAPES[size], ids)(config.steps)
    out.send(times[1:])


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _timed(step: Callable[[], None]) -> Steps:
    def steps(count: int) -> list[tuple[float, float]]:
        times = []
        for _ in range(count):
            before = _clock()
            step()
            times.append(tuple(end - start for start, end in zip(before, _clock(), strict=True)))
        return times  # type: ignore[return-value]

    return steps


def _ours(shape: dict[str, Any], ids: torch.Tensor) -> Steps:
    from safety_ray.train.optim import adamw
    from safety_ray.train.parallel import shard
    from safety_ray.train.settings import PretrainConfig
    from safety_ray.train.step import backward, read, update

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = network(shape)
    shard(model, model.blocks, device="cpu", precision="bf16")
    config = PretrainConfig(rows="", output="", batch_rows=len(ids), workers=1)
    optimizer = adamw(model, config)
    batch = batch_of(ids)

    def step() -> None:
        sums = backward(model, batch, 0, config)
        update(optimizer, sums, 1e-3, grad_clip=config.grad_clip)
        read(sums)

    return _timed(step)


def _trainer(shape: dict[str, Any], ids: torch.Tensor) -> Steps:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    times: list[tuple[float, float]] = []
    started = [_clock()]

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            started[0] = _clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock, cpu = _clock()
            times.append((clock - started[0][0], cpu - started[0][1]))

    def steps(count: int) -> list[tuple[float, float]]:
        rows = [{"input_ids": row, "labels": row} for row in ids] * count
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, max_steps=count, per_device_train_batch_size=len(ids), bf16=True,
                use_cpu=True, learning_rate=1e-3, max_grad_norm=1.0, save_strategy="no", report_to=[],
                logging_strategy="no", disable_tqdm=True, optim="adamw_torch_fused",
            )  # fmt: skip
            Trainer(
                model=network(shape).network, args=arguments, train_dataset=rows, callbacks=[Watch()]
            ).train()
        return times

    return steps


def _litgpt(shape: dict[str, Any], ids: torch.Tensor) -> Steps:
    import lightning
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=LENGTH, padded_vocab_size=VOCABULARY, n_layer=shape["layers"], n_head=shape["heads"],
        n_query_groups=shape["kv_heads"], n_embd=shape["hidden_size"], rotary_percentage=1.0, bias=False,
        parallel_residual=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        intermediate_size=shape["intermediate_size"],
    )  # fmt: skip
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model = GPT(config)
    model.transformer.wte.weight = model.lm_head.weight
    model = fabric.setup(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    optimizer = fabric.setup_optimizers(optimizer)
    targets = torch.cat([ids[:, 1:], torch.full((len(ids), 1), -100)], dim=1)

    def step() -> None:
        loss = chunked_cross_entropy(model(ids), targets, ignore_index=-100)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()

    return _timed(step)
