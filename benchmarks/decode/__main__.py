"""Measure the cost of keeping the harmfulness tag out of generated text, and print it as a table.

    python -m benchmarks.decode                                  # 7M parameters on this machine's CPU
    python -m benchmarks.decode parts=[transformers,vllm]
    python -m benchmarks.decode parts=[tree] prompt_tokens=512
    python -m benchmarks.decode model=runs/demo/pretrain/model new_tokens=64

The rows of a part generate `new_tokens` tokens for each of the same random prompts. Steps are calls of the
model or engine per token, without the call for the prompt. CPU time is less affected by other work on the
machine than wall time."""

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


def print_table(config: DecodeBenchmark) -> dict[str, Any]:
    torch.set_num_threads(config.threads)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(config, Path(scratch))
        tag = tag_id(AutoTokenizer.from_pretrained(folder))
        model = open_model(folder)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
        print(
            f"{parameters:.1f}M parameters, k = N = {config.beam_size}, {config.prompt_tokens} + "
            f"{config.new_tokens} tokens, {machine}, torch {torch.__version__}\n"
        )
        print("| method | tokens/s | compared with | steps per token | |\n|---|---|---|---|---|")
        prompts = make_prompts(config, model.config.vocab_size, tag)
        for part in config.parts:
            for row in _rows_of_part(part, config, folder, model, prompts, tag):
                print(row.line(), flush=True)
    return {}


def _rows_of_part(
    part: str, config: DecodeBenchmark, folder: str, model: Any, prompts: list[list[int]], tag: int
) -> Iterator[Row]:
    if part == "transformers":
        from benchmarks.decode.through_transformers import rows

        return rows(config, model, prompts, tag)
    if part == "tree":
        from benchmarks.decode import tree_and_rows

        return tree_and_rows.rows(config, model, prompts, tag)
    if part in ("vllm", "processor"):
        from benchmarks.decode import through_vllm

        rows_of_vllm: Callable[..., Iterator[Row]] = (
            through_vllm.search_rows if part == "vllm" else through_vllm.processor_rows
        )
        return rows_of_vllm(config, folder, prompts, tag)
    from benchmarks.decode import through_http

    return through_http.soak_rows(config, folder) if part == "soak" else through_http.rows(config, folder)


if __name__ == "__main__":
    main(DecodeBenchmark, print_table)
