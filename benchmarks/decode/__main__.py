"""What keeping the harmfulness tag out of text costs: one run, one table.

    python -m benchmarks.decode                                  # 7M parameters on this machine's CPU
    python -m benchmarks.decode parts=[transformers,vllm]
    python -m benchmarks.decode model=runs/demo/pretrain/model new_tokens=64

The rows of a part do the same work on the same random prompts: `new_tokens` tokens each. Steps are
calls of the model or of the engine per token, the prompt's own left out. CPU time is shown where a
machine with other work would blur the clock's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.decode.settings import DecodeBenchmark, Row, make_model, make_prompts, open_model
from safety_ray.core.job import main
from safety_ray.core.tag import tag_id


def run(config: DecodeBenchmark) -> dict[str, Any]:
    torch.set_num_threads(config.threads)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(config, Path(scratch))
        tag = tag_id(AutoTokenizer.from_pretrained(folder))
        model = open_model(folder)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
        print(
            f"{parameters:.1f}M parameters, k = N = {config.beam_size}, {config.prompt_tokens} + "
            f"{config.new_tokens} tokens, {where}, torch {torch.__version__}\n"
        )
        print("| way | tokens/s | against | steps per token | |\n|---|---|---|---|---|")
        prompts = make_prompts(config, model.config.vocab_size, tag)
        for part in config.parts:
            for row in _part(part, config, folder, model, prompts, tag):
                print(row.line(), flush=True)
    return {}


def _part(
    part: str, config: DecodeBenchmark, folder: str, model: Any, prompts: list[list[int]], tag: int
) -> Iterator[Row]:
    if part == "transformers":
        from benchmarks.decode.through_transformers import rows

        return rows(config, model, prompts, tag)
    if part in ("vllm", "processor"):
        from benchmarks.decode import through_vllm

        of_vllm: Callable[..., Iterator[Row]] = (
            through_vllm.search_rows if part == "vllm" else through_vllm.processor_rows
        )
        return of_vllm(config, folder, prompts, tag)
    from benchmarks.decode import through_http

    return through_http.soak_rows(config, folder) if part == "soak" else through_http.rows(config, folder)


if __name__ == "__main__":
    main(DecodeBenchmark, run)
