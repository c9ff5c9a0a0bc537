"""Cost of training and packing: one run, one table.

    python -m benchmarks.train                                  # 7M and 30M parameters on this CPU
    python -m benchmarks.train parts=[waits,packing]
    PYTHONPATH=<folder with litgpt> python -m benchmarks.train  # with LitGPT: pip install --target

`peers`: the same Llama, random ids, precision and optimizer in other trainers, with one thread. `ways`: this
loop with other precisions, attention implementations, compilation and numbers of workers. `head`: the loss
alone. `waits`: a run over packed rows, and the time it waits for data and checkpoints. `packing`: packing
compared with the tokenizer alone. CPU time excludes waiting, so it does not depend on other processes of the
machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers

from benchmarks.train.settings import Row, TrainBenchmark
from safety_ray.core.job import main


def run(config: TrainBenchmark) -> dict[str, Any]:
    """Print the table."""
    from benchmarks.train import head, packing, peers, waits, ways

    parts: dict[str, Callable[[TrainBenchmark], Iterator[Row]]] = {
        "peers": peers.rows,
        "ways": ways.rows,
        "head": head.rows,
        "waits": waits.rows,
        "packing": packing.rows,
    }
    print(f"{os.cpu_count()} CPU cores, torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| what | tokens/s | tokens per CPU second | against | |\n|---|---|---|---|---|")
    for part in config.parts:
        for row in parts[part](config):
            print(row.line(), flush=True)
    return {}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    main(TrainBenchmark, run)
