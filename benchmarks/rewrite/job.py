"""The job's stream with each engine: prompts, Ray Data, parsing and writing."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.rewrite.prompts import engine_args, job_config, sampling, tasks_of
from benchmarks.rewrite.settings import Clock, RewriteBenchmark, Run
from jobs.rewrite import generate_drafts
from safety_ray.core import dataset
from safety_ray.core.artifact import Artifact
from safety_ray.llm.engine import SECONDS, USAGE


def vllm_engine(model: str, config: RewriteBenchmark) -> dict[str, Any]:
    return {"kind": "vllm", "model": model, **sampling(config), "engine_args": engine_args(config)}


def openai_engine(url: str, config: RewriteBenchmark) -> dict[str, Any]:
    return {
        "kind": "openai", "model": "m", "base_url": url, "api_key_env": "", **sampling(config),
        "concurrency": config.seqs,
    }  # fmt: skip


def stream(folder: str, config: RewriteBenchmark, clock: Clock, engine: dict[str, Any]) -> Run:
    """Run the first pass of the job: prompts, engine, parsing and writing."""
    job = job_config(engine)
    tasks = dataset.read(f"{folder}/in", ()).map_batches(
        tasks_of, fn_kwargs={"config": job}, batch_format="pyarrow"
    )
    drafts = generate_drafts(tasks, job, 1).map_batches(_add_time, batch_format="pyarrow")
    out = Artifact(tempfile.mkdtemp(dir=folder), {}, {})
    dataset.write(drafts, out, label="drafts", total=config.prompts, write_rows=job.write_rows)
    rows = dataset.table(f"{out.path}/data", ["time", SECONDS, *USAGE]).to_pylist()
    start = min(row["time"] - row[SECONDS] for row in rows)
    end = max(file.stat().st_mtime for file in Path(out.path, "data").rglob("*.parquet"))
    prompt, reply, cached = (sum(row[name] or 0 for row in rows) for name in USAGE)
    share = cached / prompt if engine["kind"] == "vllm" else None
    return Run(reply, end - start, clock.between(start, end), share)


def _add_time(batch: pa.Table) -> pa.Table:
    return batch.append_column("time", pa.array([time.time()] * len(batch)))
