"""Settings, models and prompts of the decoding benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.tag import TAG
from safety_ray.corpus.seeds import load_seeds
from safety_ray.pack import vocabulary

PARTS = ("transformers", "tree", "vllm", "processor", "endpoint", "soak")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeBenchmark:
    """Measure the cost of keeping the tag out of generated text, with k = N."""

    parts: list[str] = setting("parts to measure", factory=lambda: list(PARTS))
    model: str = setting("a Hugging Face folder with the tag; empty: a Llama with random weights", default="")
    beam_size: int = setting("k, and N", default=4)
    prompt_tokens: int = setting("tokens of each prompt", default=16)
    new_tokens: int = setting("tokens to generate for each prompt", default=32)
    prompts: int = setting("number of prompts", default=4)
    literal_prompts: int = setting("number of prompts for the literal algorithm", default=1)
    threads: int = setting("CPU threads", default=2)
    repeats: int = setting("measurements of each method, alternating; the median is reported", default=5)
    soak_s: float = setting("seconds of the endpoint's soak test", default=120.0)
    seed: int = setting("seed of the model and the prompts", default=0)

    def __post_init__(self) -> None:
        for name in (
            "beam_size",
            "prompt_tokens",
            "new_tokens",
            "prompts",
            "literal_prompts",
            "threads",
            "repeats",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise UserError(f"parts: unknown parts {unknown}; choose from {', '.join(PARTS)}.")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    method: str
    tokens_per_s: float
    comparison: str
    steps: str = ""  # of the model or engine, per token
    note: str = ""

    def line(self) -> str:
        return (
            f"| {self.method} | {self.tokens_per_s:,.1f} | {self.comparison} | {self.steps} | {self.note} |"
        )


def make_model(config: DecodeBenchmark, folder: Path) -> str:
    """Write a Llama of 7M random parameters with a tokenizer of the shipped corpus; return its folder."""
    if config.model:
        return config.model
    tokenizer = vocabulary.train([[seed.text for seed in load_seeds()]], 8192, TAG, 2048)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(config.seed)
    model_config = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(model_config).save_pretrained(folder)
    return str(folder)


def open_model(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()


def make_prompts(config: DecodeBenchmark, vocabulary_size: int, tag: int) -> list[list[int]]:
    """Return random token ids without special tokens, which are at both ends of a vocabulary."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.prompts, config.prompt_tokens)
    highest = min(vocabulary_size, tag) if tag > 100 else vocabulary_size
    return torch.randint(100, highest - 100, shape, generator=generator).tolist()  # type: ignore[no-any-return]
