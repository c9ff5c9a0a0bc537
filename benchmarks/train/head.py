"""The loss alone, with the output embeddings of a 360M model: eager and compiled passes over the logits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.train.settings import Row, TrainBenchmark
from safety_ray.train.loss import summed_cross_entropy

_TARGETS, _WIDTH, _VOCABULARY = 1024, 960, 49_216


def rows(config: TrainBenchmark) -> Iterator[Row]:
    """Yield the rows of the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden_ND = torch.randn(_TARGETS, _WIDTH, dtype=torch.bfloat16, requires_grad=True)
    weight_VD = torch.randn(_VOCABULARY, _WIDTH, dtype=torch.bfloat16, requires_grad=True)
    targets_N = torch.randint(_VOCABULARY, (_TARGETS,))

    def step(compiled: bool) -> Callable[[], object]:
        return lambda: summed_cross_entropy(hidden_ND, weight_VD, targets_N, compiled=compiled)

    def products() -> None:
        with torch.no_grad():
            logits_NV = hidden_ND @ weight_VD.T
            logits_NV @ weight_VD
            logits_NV.T @ hidden_ND

    variants: dict[str, Callable[[], object]] = {
        "eager": step(False), "compiled": step(True), "the three matrix products alone": products,
    }  # fmt: skip
    best = dict.fromkeys(variants, (float("inf"), float("inf")))
    for _ in range(config.rounds + 1):  # the first round compiles
        for name, run in variants.items():
            clock, cpu = time.perf_counter(), time.process_time()
            run()
            seconds = (time.perf_counter() - clock, time.process_time() - cpu)
            best[name] = (min(best[name][0], seconds[0]), min(best[name][1], seconds[1]))
    for name, (clock, cpu) in best.items():
        against = f"{best['eager'][1] / cpu:.2f} x eager (CPU time)" if name != "eager" else ""
        yield Row(f"loss, 49,216 tokens of width 960: {name}", _TARGETS / clock, _TARGETS / cpu, against)
