"""What Safe Beam Search costs: tokens/s against the algorithm read literally, plain beam search and greedy.

    python -m benchmarks.decode                      # 7M parameters on this machine's CPU
    python -m benchmarks.decode model=runs/demo/pretrain/model new_tokens=64 threads=2

The table's rows do the same work on the same random prompts: `new_tokens` tokens each, no end of
text, one search at a time unless the row says otherwise. A forward pass is one call of the model.
CPU time is shown beside the clock's: with threads=1 it says the same on a machine with other work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from safety_ray.config import setting
from safety_ray.decode.hf import safe_beam_search, safe_beam_search_batch
from safety_ray.errors import UserError
from safety_ray.job import main
from tests.decode.brute_force import answers, brute_force


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeBenchmark:
    """Measures Safe Beam Search through transformers, with k = N."""

    model: str = setting("a Hugging Face folder; empty: a Llama of 7M random parameters", default="")
    beam_size: int = setting("k, and N", default=4)
    prompt_tokens: int = setting("length of each prompt", default=16)
    new_tokens: int = setting("tokens to make of each prompt", default=32)
    prompts: int = setting("how many prompts", default=4)
    literal_prompts: int = setting("how many of them the literal algorithm does too", default=1)
    threads: int = setting("CPU threads", default=2)
    seed: int = setting("seed of the model and the prompts", default=0)

    def __post_init__(self) -> None:
        for name in ("beam_size", "prompt_tokens", "new_tokens", "prompts", "literal_prompts", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")


def load(config: DecodeBenchmark) -> Any:
    torch.manual_seed(config.seed)
    if config.model:
        return AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32).eval()
    shape = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(shape).eval()


def run(config: DecodeBenchmark) -> dict[str, Any]:
    torch.set_num_threads(config.threads)
    model = load(config)
    k, length = config.beam_size, config.new_tokens
    tag = model.config.vocab_size - 1
    chosen = torch.Generator().manual_seed(config.seed)
    shape = (config.prompts, config.prompt_tokens)
    prompts = torch.randint(0, tag, shape, generator=chosen).tolist()
    few = prompts[: config.literal_prompts]
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.register_forward_pre_hook(count)
    settings: dict[str, Any] = {
        "tag_id": tag,
        "eos_id": None,
        "beam_size": k,
        "num_candidates": k,
        "max_new_tokens": length,
    }

    def literal() -> list[list[int]]:
        return [_literal(model, prompt, tag=tag, k=k, length=length) for prompt in few]

    def one_at_a_time(share: float) -> list[list[int]]:
        found = [safe_beam_search(model, prompt, drop_share=share, **settings) for prompt in prompts]
        return [list(hypotheses[0].token_ids) for hypotheses in found]

    def together() -> list[list[int]]:
        return [list(found[0].token_ids) for found in safe_beam_search_batch(model, prompts, **settings)]

    def greedy() -> list[list[int]]:
        return [_greedy(model, prompt, tag, length) for prompt in prompts]

    ways: list[tuple[str, Callable[[], list[list[int]]]]] = [
        ("Safe Beam Search, literal", literal),
        ("Safe Beam Search", lambda: one_at_a_time(0.5)),
        (f"Safe Beam Search, {config.prompts} prompts at once", together),
        ("beam search (share 0)", lambda: one_at_a_time(0.0)),
        ("greedy (transformers)", greedy),
    ]
    safe_beam_search(model, prompts[0], **{**settings, "max_new_tokens": 2})  # warm up
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{parameters:.1f}M parameters, k = N = {k}, {config.prompt_tokens} + {length} tokens, "
        f"{model.dtype}, {model.device}, {config.threads} threads, torch {torch.__version__}\n"
    )
    print("| way | tokens/s | times literal | forward passes per token | CPU ms per token | times literal |")
    print("|---|---|---|---|---|---|")
    base = base_cpu = 0.0
    results: dict[str, list[list[int]]] = {}
    for name, way in ways:
        calls = 0
        start, start_cpu = time.perf_counter(), time.process_time()
        results[name] = way()
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        tokens = sum(map(len, results[name]))
        base, base_cpu = base or tokens / seconds, base_cpu or cpu / tokens
        print(
            f"| {name} | {tokens / seconds:.1f} | {tokens / seconds / base:.1f} | {calls / tokens:.2f} "
            f"| {cpu / tokens * 1000:.1f} | {base_cpu / (cpu / tokens):.1f} |",
            flush=True,
        )
    same = results["Safe Beam Search, literal"] == results["Safe Beam Search"][: len(few)]
    print(f"\nliteral and fast found the same tokens: {'yes' if same else 'NO'}")
    return {}


@torch.inference_mode()
def _literal(model: Any, prompt: list[int], *, tag: int, k: int, length: int) -> list[int]:
    """The tests' oracle: no cache, the whole text through the model whenever it is asked about."""

    def log_probs(texts: list[tuple[int, ...]]) -> list[list[float]]:
        rows = []
        for text in texts:
            logits = model(input_ids=torch.tensor([[*prompt, *text]]), use_cache=False).logits[:, -1]
            rows.append(torch.log_softmax(logits.float(), dim=-1)[0].tolist())
        return rows

    found = brute_force(log_probs, tag=tag, eos=frozenset(), k=k, n=k, length=length, share="0.5")
    return list(answers(*found, k)[0].tokens)


def _greedy(model: Any, prompt: list[int], tag: int, length: int) -> list[int]:
    model.generation_config.eos_token_id = None
    made = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=length,
        suppress_tokens=[tag],
        pad_token_id=0,
    )
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens


if __name__ == "__main__":
    main(DecodeBenchmark, run)
