"""The prompts and the model of the benchmark."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from benchmarks.rewrite.settings import RewriteBenchmark
from safety_ray.core.config import from_dict
from safety_ray.core.device import cpu_dtype
from safety_ray.corpus.seeds import load_seeds
from safety_ray.rewrite import tasks
from safety_ray.rewrite.settings import RewriteConfig


def documents(config: RewriteBenchmark) -> pa.Table:
    seeds = load_seeds()[: config.prompts]
    return pa.table(
        {
            "id": [f"b{n}" for n in range(len(seeds))],
            "text": [seed.text for seed in seeds],
            "score": pa.array([2 + n % 3 for n in range(len(seeds))], pa.int8()),
        }
    )


def tasks_of(rows: pa.Table, config: RewriteConfig) -> pa.Table:
    return tasks.from_documents(rows, config.recipe_of(), config.task_options())


def chats(rows: pa.Table, config: RewriteBenchmark) -> list[list[dict[str, str]]]:
    messages: list[list[dict[str, str]]] = tasks_of(rows, job_config({})).column("messages").to_pylist()
    return messages


def job_config(engine: dict[str, Any]) -> RewriteConfig:
    required = {"scored": "-", "classifier": "-", "output": "-", "write_rows": 32}
    return from_dict(RewriteConfig, required | {"engine": engine})


def make_model(folder: str, hidden: int) -> str:
    """Save a Llama with random weights, a byte-level BPE of the corpus and a chat template."""
    from tests.tiny_writer import model, tokenizer

    vocabulary = tokenizer([seed.text for seed in load_seeds()], words=8192)
    llama = model(
        vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4,
    )  # fmt: skip
    vocabulary.save_pretrained(folder)
    llama.save_pretrained(folder)
    size = sum(p.numel() for p in llama.parameters()) / 1e6
    print(f"model: {size:.0f}M parameters, {os.cpu_count()} CPU cores\n")
    return folder


def engine_args(config: RewriteBenchmark) -> dict[str, Any]:
    return {
        "max_model_len": 2048, "max_num_seqs": config.seqs, "dtype": cpu_dtype(), "enforce_eager": True,
        "block_size": 32, "enable_chunked_prefill": False,
    }  # fmt: skip


def sampling(config: RewriteBenchmark) -> dict[str, Any]:
    return {"max_tokens": config.new_tokens, "temperature": 0.7, "top_p": 0.95}
