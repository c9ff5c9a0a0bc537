"""Measure the overhead of the rewriting job over the bare engines: tokens/s, prefix cache, acceptance.

    python -m benchmarks.rewrite classifier=runs/demo/fit

The prompts are those of the recipes for the seeds of the shipped corpus. `vllm` compares the job's stream
(prompts, Ray Data, parsing, writing) with `vllm.LLM.chat`, with the same prompts, model and engine arguments.
`openai` compares it with a bare asyncio client with as many open requests; both use one vLLM server. A
stream is timed from the first row in its engine until its last row is on disk, so that the engine's start
does not count. The methods alternate, and the table has the medians of the rounds. CPU seconds are those of
this process and its children, so they are comparable on a machine with other load. The model is a Llama with
random weights, whose replies have `new_tokens` tokens each.
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
from benchmarks.rewrite.settings import Clock, RewriteBenchmark, Run
from safety_ray.core import cluster, dataset
from safety_ray.core.job import main


def compare_engines(config: RewriteBenchmark) -> dict[str, Any]:
    """Print the table, and the cost of acceptance."""
    for name, value in {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
        os.environ.setdefault(name, value)
    rows = documents(config)
    clock = Clock()
    print("| method | tokens/s | tokens per CPU second | of bare | by CPU time | cached prompt tokens |")
    print("|---|---|---|---|---|---|")
    per_cpu: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(f"{folder}/model", config.hidden)
        dataset.write_table(rows, f"{folder}/in/a.parquet")
        cluster.start()
        notes = []
        if "vllm" in config.parts:
            with bare_engine(model, config) as bare:
                methods = {
                    "bare `vllm.LLM.chat`": lambda: bare(chats(rows, config), clock),
                    "job, engine `vllm`": lambda: stream(folder, config, clock, vllm_engine(model, config)),
                }
                per_cpu |= _table(methods, config.rounds)
        if "openai" in config.parts:
            with server(model, config) as url:
                methods = {
                    "bare asyncio client": lambda: asyncio.run(
                        client(url, chats(rows, config), config, clock)
                    ),
                    "job, engine `openai`": lambda: stream(folder, config, clock, openai_engine(url, config)),
                }
                per_cpu |= _table(methods, config.rounds)
        if "acceptance" in config.parts:
            notes.append(cost_of_acceptance(config, rows, model, per_cpu))
    print("\n" + "\n".join(notes))
    return {}


def _table(methods: dict[str, Callable[[], Run]], rounds: int) -> dict[str, float]:
    """Measure `methods` alternately and print a line for each. Returns the tokens per CPU second of each."""
    next(iter(methods.values()))()  # warm up the bare engine or the server, which keep running
    runs: dict[str, list[Run]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            runs[name].append(method())
    speeds = {n: statistics.median(r.tokens / r.seconds for r in rs) for n, rs in runs.items()}
    per_cpu = {n: statistics.median(r.tokens / r.cpu for r in rs) for n, rs in runs.items()}
    first = next(iter(methods))
    for name in methods:
        ratios = f"{speeds[name] / speeds[first]:.2f} | {per_cpu[name] / per_cpu[first]:.2f}"
        relative = ratios if name != first else " | "
        cached = runs[name][-1].cached
        share = "" if cached is None else f"{cached:.0%}"
        print(f"| {name} | {speeds[name]:,.0f} | {per_cpu[name]:,.0f} | {relative} | {share} |", flush=True)
    return per_cpu


if __name__ == "__main__":
    main(RewriteBenchmark, compare_engines)
