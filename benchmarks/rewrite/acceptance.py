"""Measure the CPU time of acceptance: scoring drafts, comparing them with their sources, and checks."""

from __future__ import annotations

import statistics
import time

import pyarrow as pa
from transformers import AutoTokenizer

from benchmarks.rewrite.prompts import job_config, tasks_of
from benchmarks.rewrite.settings import RewriteBenchmark
from safety_ray.corpus.seeds import load_seeds
from safety_ray.rewrite import acceptance
from safety_ray.rewrite.compare import ScoreAndCompare


def cost_of_acceptance(
    config: RewriteBenchmark, rows: pa.Table, model: str, per_cpu: dict[str, float]
) -> str:
    """Return the CPU time of acceptance for each token of a draft, also relative to that of generation.

    Drafts are other texts of the corpus. `per_cpu` has the tokens per CPU second of each method.
    """
    tasks = tasks_of(rows, job_config({}))
    seeds = [seed.text for seed in load_seeds()]
    texts = (seeds[len(rows) :] + seeds)[: len(rows)]
    drafts = tasks.append_column("text", pa.array(texts))
    drafts = drafts.append_column("problem", pa.nulls(len(drafts), pa.string()))
    actor = ScoreAndCompare(config.classifier, 0, "cpu")
    seconds = []
    for n in range(config.rounds + 1):
        start = time.process_time()
        for row in actor(drafts).to_pylist():
            acceptance.rejection_reason(row, acceptance.Bounds())
        seconds += [time.process_time() - start] if n else []  # the first run warms up
    tokens = sum(map(len, AutoTokenizer.from_pretrained(model)(texts)["input_ids"]))
    per_token = statistics.median(seconds) / tokens
    summary = f"acceptance: {1000 * per_token:.2f} ms of one core for each token of a draft"
    if name := next((n for n in per_cpu if "vllm`" in n and n.startswith("job")), None):
        summary += f", {per_token * per_cpu[name]:.1%} of the CPU time in which the `vllm` job generates it"
    return summary + f"; below 5 % of one core if the engine generates up to {0.05 / per_token:,.0f} tokens/s"
