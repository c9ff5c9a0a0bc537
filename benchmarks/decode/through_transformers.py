"""Safe Beam Search with transformers, compared with the literal algorithm, beam search and greedy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.decode.settings import DecodeBenchmark, Row
from safety_ray.decode.hf import safe_beam_search, safe_beam_search_batch
from tests.decode.brute_force import answers, brute_force


def rows(config: DecodeBenchmark, model: Any, prompts: list[list[int]], tag: int) -> Iterator[Row]:
    """Yield one row per method; each generates `new_tokens` tokens for each prompt."""
    k, length = config.beam_size, config.new_tokens
    literal_prompts = prompts[: config.literal_prompts]
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
        return [_literal(model, prompt, tag=tag, k=k, length=length) for prompt in literal_prompts]

    def sequential(drop_share: float) -> list[list[int]]:
        results = [safe_beam_search(model, prompt, drop_share=drop_share, **settings) for prompt in prompts]
        return [list(hypotheses[0].token_ids) for hypotheses in results]

    def batched() -> list[list[int]]:
        results = safe_beam_search_batch(model, prompts, **settings)
        return [list(hypotheses[0].token_ids) for hypotheses in results]

    def greedy_answers() -> list[list[int]]:
        return [greedy(model, prompt, tag, length) for prompt in prompts]

    methods: list[tuple[str, int, Callable[[], list[list[int]]]]] = [
        ("transformers: literal algorithm", len(literal_prompts), literal),
        ("transformers: Safe Beam Search", len(prompts), lambda: sequential(0.5)),
        (f"transformers: Safe Beam Search, batch of {len(prompts)} prompts", 1, batched),
        ("transformers: beam search (drop_share 0)", len(prompts), lambda: sequential(0.0)),
        ("transformers: greedy", len(prompts), greedy_answers),
    ]
    safe_beam_search(model, prompts[0], **{**settings, "max_new_tokens": 2})  # warm up
    results: dict[str, list[list[int]]] = {}
    base = 0.0
    for name, runs, decode in methods:
        calls, start, cpu = 0, time.perf_counter(), time.process_time()
        results[name] = decode()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        tokens = sum(map(len, results[name]))
        base = base or cpu / tokens
        yield Row(
            name,
            tokens / seconds,
            f"{base / (cpu / tokens):.1f} x literal (CPU time)",
            # Without the pass over the prompt; concurrent searches share a step.
            f"{(calls - runs) / length / runs:.2f}" if "literal" not in name else f"{calls / tokens:.0f}",
            f"{cpu / tokens * 1000:.1f} CPU ms per token",
        )
    literal_results, ours = list(results.values())[:2]
    if literal_results != ours[: len(literal_prompts)]:
        raise AssertionError("the literal algorithm and Safe Beam Search generated different tokens")


@torch.inference_mode()
def _literal(model: Any, prompt: list[int], *, tag: int, k: int, length: int) -> list[int]:
    """Return the tokens of the tests' oracle, which runs the whole text through the model in each step."""

    def log_probs(texts: list[tuple[int, ...]]) -> list[list[float]]:
        rows = []
        for text in texts:
            logits = model(input_ids=torch.tensor([[*prompt, *text]]), use_cache=False).logits[:, -1]
            rows.append(torch.log_softmax(logits.float(), dim=-1)[0].tolist())
        return rows

    finished, live = brute_force(log_probs, tag=tag, eos=frozenset(), k=k, n=k, length=length, share="0.5")
    return list(answers(finished, live, k)[0].tokens)


def greedy(model: Any, prompt: list[int], tag: int, length: int) -> list[int]:
    """Return the tokens of greedy decoding by transformers' `generate`, without the tag."""
    model.generation_config.eos_token_id = None
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=length,
        suppress_tokens=[tag],
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens
