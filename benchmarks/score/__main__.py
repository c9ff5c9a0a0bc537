"""Measure the cost of scoring; prints one table per part.

    python -m benchmarks.score data=$SAFETY_RAY_DATA classifier=runs/demo/fit
    python -m benchmarks.score data=$SAFETY_RAY_DATA parts=[ngrams]
    python -m benchmarks.score data=$SAFETY_RAY_DATA classifier=... parts=[job]

The variants are measured alternately. Next to wall time, the tables have the CPU time of all processes,
which depends less on other load of the machine.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import transformers

from benchmarks.score.settings import ScoreBenchmark
from safety_ray.core.device import fast_bf16
from safety_ray.core.job import main


def run(config: ScoreBenchmark) -> dict[str, Any]:
    native = "native" if fast_bf16("cpu") else "not native"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{os.cpu_count()} CPU cores, bf16 {native}, {versions}")
    for part in config.parts:
        print(f"\n## {part}\n")
        if part == "encoder":
            from benchmarks.score import encoder

            lines = encoder.rows(config)
        elif part == "ngrams":
            from benchmarks.score import ngrams

            lines = ngrams.rows(config)
        else:
            from benchmarks.score import job

            lines = job.rows(config) if part == "job" else job.memory_rows(config)
        for line in lines:
            print(line, flush=True)
    return {}


if __name__ == "__main__":
    main(ScoreBenchmark, run)
