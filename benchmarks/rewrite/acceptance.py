"""What acceptance costs: CPU time of scoring, comparing and judging drafts."""

from __future__ import annotations

import statistics
import time

import pyarrow as pa

from benchmarks.rewrite.prompts import job_config, tasks_of
from benchmarks.rewrite.settings import RewriteBenchmark
from safety_ray.rewrite import acceptance
from safety_ray.rewrite.compare import ScoreAndCompare


def cost_of_acceptance(config: RewriteBenchmark, rows: pa.Table, speeds: dict[str, float]) -> str:
    """CPU time of scoring, comparing and judging drafts: each document is the draft of the one before it."""
    asked = tasks_of(rows, job_config({}))
    texts = rows.column("text").to_pylist()
    drafts = asked.append_column("text", pa.array(texts[-1:] + texts[:-1]))
    drafts = drafts.append_column("problem", pa.nulls(len(drafts), pa.string()))
    actor = ScoreAndCompare(config.classifier, 0, "cpu")
    spent = []
    for turn in range(config.rounds + 1):
        start = time.process_time()
        for row in actor(drafts).to_pylist():
            acceptance.verdict(row, acceptance.Bounds())
        spent += [time.process_time() - start] if turn else []  # the first one warms up
    words = sum(len(text.split()) for text in texts)
    each = statistics.median(spent) / words
    told = f"acceptance: {1000 * each:.2f} ms of one core for each word of a draft"
    if name := next((n for n in speeds if "vllm`" in n and n.startswith("job")), None):
        told += f", {each * speeds[name]:.0%} of the time in which `vllm` makes a token here"
    return told + f"; below 5 % on one core where the engine makes up to {0.05 / each:,.0f} tokens/s"
