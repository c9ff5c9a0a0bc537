"""Waiting time of a run of the 7M model over packed rows, with checkpoints."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.train.settings import LENGTH, SHAPES, VOCABULARY, Row, TrainBenchmark
from jobs.corpus import CorpusConfig, make_corpus
from jobs.pack import PackConfig, pack_documents
from safety_ray.core import dataset
from safety_ray.core.config import from_dict
from safety_ray.train.loop import train
from safety_ray.train.metrics import Metrics
from safety_ray.train.settings import PretrainConfig


def rows(config: TrainBenchmark) -> Iterator[Row]:
    """Yield the row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        yield _run(config, Path(folder))


def _run(config: TrainBenchmark, folder: Path) -> Row:
    make_corpus(CorpusConfig(output=f"{folder}/corpus", documents=4000))
    corpus = dataset.table(f"{folder}/corpus")
    scored = corpus.append_column("score", corpus.column("label").cast("int8"))
    dataset.write_table(scored, f"{folder}/scored/a.parquet")
    pack_documents(
        PackConfig(
            scored=f"{folder}/scored", output=f"{folder}/rows", row_length=LENGTH, vocab_size=VOCABULARY
        )
    )
    settings = from_dict(
        PretrainConfig,
        {
            "rows": f"{folder}/rows", "output": f"{folder}/run", "workers": 1, "log_every": 1,
            "batch_rows": config.batch_rows, "max_steps": config.run_steps,
            "checkpoint_every": config.checkpoint_every, "model": SHAPES["7M"],
        },
    )  # fmt: skip
    Path(settings.output).mkdir()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        cpu = time.process_time()
        train(settings, settings.model, settings.rows, device=torch.device("cpu"))
        cpu = time.process_time() - cpu
    finally:
        dist.destroy_process_group()
    lines = list(Metrics(settings.output).lines())
    seconds = [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(lines)]
    shares = {
        name: sum(line[name] * duration for line, duration in zip(lines[1:], seconds, strict=True))
        / sum(seconds)
        for name in ("data_wait", "checkpoint_wait")
    }
    interval = statistics.median(seconds) * config.checkpoint_every
    return Row(
        f"7M: a run of {config.run_steps} steps over packed rows",
        (lines[-1]["tokens"] - lines[0]["tokens"]) / sum(seconds),
        lines[-1]["tokens"] / cpu,
        f"waited: data {shares['data_wait']:.2%}, checkpoints {shares['checkpoint_wait']:.2%} of its time",
        f"a checkpoint every {interval:.0f} s; goal: below 2 % each",
    )
