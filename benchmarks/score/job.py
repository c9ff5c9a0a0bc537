"""The whole job on Ray: pools of several sizes, and a corpus larger than the object store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray._private.internal_api

from benchmarks.score.settings import Cost, ScoreBenchmark, all_processes
from benchmarks.score.texts import documents
from jobs import score
from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier.batches import ScoreBatch, add_scores
from safety_ray.classifier.classifier import Prediction
from safety_ray.core import cluster, dataset

_FEW = 8


def rows(config: ScoreBenchmark) -> Iterator[str]:
    """Yield the lines of the table of pool sizes."""
    table = documents(config.data, config.documents // len(config.sources), config.sources)
    yield f"{len(table):,} documents, without the start of Ray and of the actors; CPU of all processes\n"
    yield "| job | documents per CPU second | documents/s | start, CPU s | padding |"
    yield "|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as scratch:
        few, all_ = f"{scratch}/few", f"{scratch}/all"
        dataset.write_table(table.slice(0, _FEW), f"{few}/a.parquet")
        dataset.write_table(table, f"{all_}/a.parquet")
        base = ScoreConfig(
            documents=all_, output=f"{scratch}/out", classifier=config.classifier, batch_rows=64
        )
        jobs = {f"{n} actors": replace(base, actors=n) for n in config.actors}
        _run(
            replace(base, documents=few, output=f"{scratch}/warm"), Cost()
        )  # warms up imports and the file cache
        for number, (name, job) in enumerate(jobs.items()):
            start, cost = Cost(), Cost()
            _run(replace(job, documents=few, output=f"{scratch}/few{number}"), start)
            record = _run(replace(job, output=f"{scratch}/all{number}"), cost)
            cost.wall[0] -= start.wall[0]
            cost.cpu[0] -= start.cpu[0]
            documents_more = len(table) - _FEW
            yield (
                f"| {name} | {documents_more / cost.cpu[0]:,.1f} | {documents_more / cost.wall[0]:,.1f} "
                f"| {start.cpu[0]:.0f} | {record['tokens']['padding']:.1%} |"
            )


def _run(job: ScoreConfig, cost: Cost) -> dict[str, Any]:
    with all_processes(cost):
        record = score_documents(job)
    ray.shutdown()
    return record


class CheapScorer(ScoreBatch):
    """A scorer without a model, to measure the stream around the classifier."""

    def __init__(self, *settings: Any) -> None: ...

    def __call__(self, batch: pa.Table) -> pa.Table:
        safe = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        return add_scores(batch, lambda texts: [Prediction(0, safe, [0]) for _ in texts])


def memory_rows(config: ScoreBenchmark) -> Iterator[str]:
    """Yield the table for a corpus several times larger than the object store, with a scorer without a
    model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        number = _large(Path(scratch, "in"), config.corpus_mb)
        score.ScoreBatch = CheapScorer  # type: ignore[misc]
        cost = Cost()
        with all_processes(cost):
            ray.init(
                address="local",
                num_cpus=max(cluster.SLOTS, os.cpu_count() or 1), include_dashboard=False,
                object_store_memory=config.store_mb << 20, log_to_driver=False, logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}},
            )  # fmt: skip
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars, context.use_datasource_v2 = False, False
            record = score_documents(
                ScoreConfig(
                    documents=f"{scratch}/in", output=f"{scratch}/out", classifier=config.classifier,
                    batch_rows=512, write_rows=512,
                )
            )  # fmt: skip
            store = ray._private.internal_api.memory_summary(stats_only=True)
        ray.shutdown()
        assert record["rows_out"] == number
        yield f"{config.corpus_mb:,} MB of text in {number:,} documents, object store {config.store_mb} MB\n"
        yield "| peak of all processes, MB | seconds | MB/s | spilled |\n|---|---|---|---|"
        spilled = [line for line in store.splitlines() if line.startswith("Spilled")] or ["nothing"]
        speed = config.corpus_mb / cost.wall[0]
        yield f"| {cost.peak >> 20:,} | {cost.wall[0]:,.0f} | {speed:,.1f} | {spilled[0]} |"


def _large(folder: Path, megabytes: int) -> int:
    """Write different documents of random words: 16 kB each, 16 MB per file. Return their number."""
    rng, size, number = np.random.default_rng(0), 16_000, 0
    for n in range(max(1, megabytes // 16)):
        letters = rng.integers(97, 123, (1000, size), np.uint8)
        letters[:, ::7] = 32
        texts = [bytes(row).decode() for row in letters]
        table = pa.table({"id": [f"d{number + i}" for i in range(len(texts))], "text": texts})
        dataset.write_table(table, str(folder / f"{n:04}.parquet"))
        number += len(texts)
    return number
