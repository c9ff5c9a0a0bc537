"""What the rewriting job's engines cost over the bare ones: tokens a second, the prefix cache, acceptance.

    python -m benchmarks.rewrite classifier=runs/demo/fit

Prompts are the recipes' own about the seeds of the shipped corpus. `vllm` is the job's stream (prompts, Ray
Data, parsing, writing) against `vllm.LLM.chat` with the same prompts, model and engine arguments; `openai` is
the same stream against a bare asyncio client with as many requests open, both asking one vLLM server. A
stream is timed from when its engine took the first row to when its last row was on disk, so that no engine's
start counts. Ways take turns and the median of the rounds counts. Seconds of CPU are those of this process
and all below it: they are a fair figure where others use the machine, too. Model: a Llama of random weights,
whose replies have `new_tokens` tokens each.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.rewrite.acceptance import cost_of_acceptance
from benchmarks.rewrite.bare import bare_engine, client, server
from benchmarks.rewrite.job import openai_engine, stream, vllm_engine
from benchmarks.rewrite.prompts import chats, documents, make_model
from benchmarks.rewrite.settings import Clock, RewriteBenchmark, Took
from safety_ray.core import cluster, dataset
from safety_ray.core.job import main


def run(config: RewriteBenchmark) -> dict[str, Any]:
    for name, value in {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        os.environ.setdefault(name, value)
    rows = documents(config)
    clock = Clock()
    print(
        "| way | tokens/s | tokens per CPU second | of the bare one | by CPU time | prompts from the cache |"
    )
    print("|---|---|---|---|---|---|")
    per_cpu: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(f"{folder}/model", config.hidden)
        dataset.write_table(rows, f"{folder}/in/a.parquet")
        cluster.start()
        notes = []
        if "vllm" in config.parts:
            with bare_engine(model, config) as bare:
                ways = {
                    "bare `vllm.LLM.chat`": lambda: bare(chats(rows, config), clock),
                    "job, engine `vllm`": lambda: stream(folder, config, clock, vllm_engine(model, config)),
                }
                per_cpu |= _table(ways, config.rounds)
        if "openai" in config.parts:
            with server(model, config) as url:
                ways = {
                    "bare asyncio client": lambda: asyncio.run(
                        client(url, chats(rows, config), config, clock)
                    ),
                    "job, engine `openai`": lambda: stream(folder, config, clock, openai_engine(url, config)),
                }
                per_cpu |= _table(ways, config.rounds)
        if "acceptance" in config.parts:
            notes.append(cost_of_acceptance(config, rows, model, per_cpu))
    print("\n" + "\n".join(notes))
    return {}


def _table(ways: dict[str, Callable[[], Took]], rounds: int) -> dict[str, float]:
    """Measures `ways` in turns and prints a line for each; tokens of each per CPU second."""
    next(iter(ways.values()))()  # warm up what stays up: the bare engine or the server
    found: dict[str, list[Took]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    speeds = {n: statistics.median(t.tokens / t.seconds for t in took) for n, took in found.items()}
    per_cpu = {n: statistics.median(t.tokens / t.cpu for t in took) for n, took in found.items()}
    first = next(iter(ways))
    for name in ways:
        shares = f"{speeds[name] / speeds[first]:.2f} | {per_cpu[name] / per_cpu[first]:.2f}"
        against = shares if name != first else " | "
        cached = found[name][-1].cached
        share = "" if cached is None else f"{cached:.0%}"
        print(f"| {name} | {speeds[name]:,.0f} | {per_cpu[name]:,.0f} | {against} | {share} |", flush=True)
    return per_cpu


if __name__ == "__main__":
    main(RewriteBenchmark, run)
