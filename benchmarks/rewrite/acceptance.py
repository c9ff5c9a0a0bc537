"""What acceptance costs: CPU time of scoring, comparing and judging drafts."""

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
    """CPU time of scoring, comparing and judging drafts, beside what the engine took to make their tokens.

    Drafts are other texts of the corpus. `per_cpu`: tokens that a way made in a CPU second.
    """
    asked = tasks_of(rows, job_config({}))
    seeds = [seed.text for seed in load_seeds()]
    texts = (seeds[len(rows) :] + seeds)[: len(rows)]
    drafts = asked.append_column("text", pa.array(texts))
    drafts = drafts.append_column("problem", pa.nulls(len(drafts), pa.string()))
    actor = ScoreAndCompare(config.classifier, 0, "cpu")
    spent = []
    for turn in range(config.rounds + 1):
        start = time.process_time()
        for row in actor(drafts).to_pylist():
            acceptance.rejection_reason(row, acceptance.Bounds())
        spent += [time.process_time() - start] if turn else []  # the first one warms up
    tokens = sum(map(len, AutoTokenizer.from_pretrained(model)(texts)["input_ids"]))
    each = statistics.median(spent) / tokens
    told = f"acceptance: {1000 * each:.2f} ms of one core for each token of a draft"
    if name := next((n for n in per_cpu if "vllm`" in n and n.startswith("job")), None):
        told += f", {each * per_cpu[name]:.1%} of the CPU time in which the `vllm` job makes one here"
    return told + f"; below 5 % on one core where the engine makes up to {0.05 / each:,.0f} tokens/s"
