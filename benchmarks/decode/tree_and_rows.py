"""Safe Beam Search with transformers on a tree of tokens, on copied rows, and greedy decoding."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.decode.settings import DecodeBenchmark, Row
from benchmarks.decode.through_transformers import greedy
from safety_ray.decode.hf import drive
from safety_ray.decode.hf_rows import Rows
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.tree import Tree

TREE, COPIED, GREEDY = "tree of tokens", "rows, keys and values copied", "greedy"


def rows(config: DecodeBenchmark, model: Any, prompts: list[list[int]], tag: int) -> Iterator[Row]:
    """Yield a row per method, measured alternately: prompt by prompt, and all prompts in one batch."""
    settings = SearchSettings(
        tag_id=tag,
        beam_size=config.beam_size,
        num_candidates=config.beam_size,
        max_new_tokens=config.new_tokens,
    )

    @torch.inference_mode()
    def search(batch: list[list[int]], as_tree: bool) -> list[list[int]]:
        searches, read = [Search(settings) for _ in batch], Rows(model, batch)
        drive(Tree(read) if as_tree else read, searches)
        return [list(search.hypotheses()[0].token_ids) for search in searches]

    def one_by_one(as_tree: bool) -> list[list[int]]:
        return [search([prompt], as_tree)[0] for prompt in prompts]

    together = f", batch of {len(prompts)} prompts"
    methods: dict[str, Callable[[], list[list[int]]]] = {
        GREEDY: lambda: [greedy(model, prompt, tag, config.new_tokens) for prompt in prompts],
        COPIED: lambda: one_by_one(False),
        TREE: lambda: one_by_one(True),
        COPIED + together: lambda: search(prompts, False),
        TREE + together: lambda: search(prompts, True),
    }
    wall: dict[str, list[float]] = {name: [] for name in methods}
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    texts: dict[str, list[list[int]]] = {}
    for repeat in range(config.repeats + 1):  # the first one warms up
        for name, decode in methods.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            texts[name] = decode()
            if repeat:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
    if texts[TREE] != texts[COPIED]:
        raise AssertionError("the tree and the copied rows generated different tokens")
    tokens = len(prompts) * config.new_tokens
    for name in methods:
        others = [] if name == GREEDY else [GREEDY, *([name.replace(TREE, COPIED)] if TREE in name else [])]
        compared = ", ".join(f"{_ratio(cpu[other], cpu[name]):.2f} x {other}" for other in others)
        per_token = statistics.median(cpu[name]) / tokens * 1000
        speed = tokens / statistics.median(wall[name])
        note = f"{per_token:.1f} CPU ms per token, with the prompt"
        yield Row(name, speed, compared and f"{compared} (tokens per CPU time)", "", note)


def _ratio(base: list[float], ours: list[float]) -> float:
    """Return the median of the ratios of measurements of the same turn."""
    return statistics.median(a / b for a, b in zip(base, ours, strict=True))
