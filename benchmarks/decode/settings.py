"""What the decoding benchmark is told, and what it measures with."""

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

PARTS = ("transformers", "vllm", "processor", "endpoint", "soak")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeBenchmark:
    """Measures what keeping the tag out of text costs, with k = N."""

    parts: list[str] = setting("what to measure", factory=lambda: list(PARTS))
    model: str = setting("a Hugging Face folder with the tag; empty: a Llama of random weights", default="")
    beam_size: int = setting("k, and N", default=4)
    prompt_tokens: int = setting("length of each prompt", default=16)
    new_tokens: int = setting("tokens to make of each prompt", default=32)
    prompts: int = setting("how many prompts", default=4)
    literal_prompts: int = setting("how many of them the literal algorithm does too", default=1)
    threads: int = setting("CPU threads", default=2)
    repeats: int = setting("times each is measured, in turns; the median counts", default=5)
    soak_s: float = setting("seconds of the endpoint's soak", default=120.0)
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
            raise UserError(f"unknown parts {unknown}: use some of {', '.join(PARTS)}.")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    way: str
    tokens_per_s: float
    against: str
    steps: str = ""  # of the model or the engine, per token
    note: str = ""

    def line(self) -> str:
        return f"| {self.way} | {self.tokens_per_s:,.1f} | {self.against} | {self.steps} | {self.note} |"


def make_model(config: DecodeBenchmark, folder: Path) -> str:
    """A Llama of 7M random parameters with a tokenizer of the packaged corpus; its folder."""
    if config.model:
        return config.model
    tokenizer = vocabulary.train([[seed.text for seed in load_seeds()]], 8192, TAG, 2048)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(config.seed)
    shape = LlamaConfig(
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
    LlamaForCausalLM(shape).save_pretrained(folder)
    return str(folder)


def open_model(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_prompts(config: DecodeBenchmark, vocabulary_size: int, tag: int) -> list[list[int]]:
    """Random token ids, never a special one: those stand at either end of a vocabulary."""
    chosen = torch.Generator().manual_seed(config.seed)
    shape = (config.prompts, config.prompt_tokens)
    highest = min(vocabulary_size, tag) if tag > 100 else vocabulary_size
    return torch.randint(100, highest - 100, shape, generator=chosen).tolist()  # type: ignore[no-any-return]
