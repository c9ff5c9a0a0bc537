"""Measure what scoring costs: one run, a table for each part.

    python -m benchmarks.score data=$SAFETY_RAY_DATA classifier=runs/demo/fit
    python -m benchmarks.score data=$SAFETY_RAY_DATA parts=[ngrams]
    python -m benchmarks.score data=$SAFETY_RAY_DATA classifier=... parts=[job]

Ways are measured in turns. Beside the clock stands the CPU time of all processes that took part, which
other work on the machine blurs less.
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
