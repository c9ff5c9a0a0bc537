"""Safe Beam Search through transformers, against the algorithm read literally, beam search and greedy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.decode.settings import DecodeBenchmark, Row
from safety_ray.decode.hf import safe_beam_search, safe_beam_search_batch
from tests.decode.brute_force import answers, brute_force


def rows(config: DecodeBenchmark, model: Any, prompts: list[list[int]], tag: int) -> Iterator[Row]:
    """One row per way; each makes `new_tokens` tokens of each prompt."""
    k, length = config.beam_size, config.new_tokens
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

    ways: list[tuple[str, int, Callable[[], list[list[int]]]]] = [
        ("transformers: the algorithm read literally", len(few), literal),
        ("transformers: Safe Beam Search", len(prompts), lambda: one_at_a_time(0.5)),
        (f"transformers: Safe Beam Search, {len(prompts)} prompts at once", 1, together),
        ("transformers: beam search (share 0)", len(prompts), lambda: one_at_a_time(0.0)),
        ("transformers: greedy", len(prompts), greedy),
    ]
    safe_beam_search(model, prompts[0], **{**settings, "max_new_tokens": 2})  # warm up
    results: dict[str, list[list[int]]] = {}
    base = 0.0
    for name, runs, way in ways:
        calls, start, cpu = 0, time.perf_counter(), time.process_time()
        results[name] = way()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        tokens = sum(map(len, results[name]))
        base = base or cpu / tokens
        yield Row(
            name,
            tokens / seconds,
            f"{base / (cpu / tokens):.1f} x literal (CPU time)",
            # Without the pass over the prompt itself; of searches at once a step is shared.
            f"{(calls - runs) / length / runs:.2f}" if "literal" not in name else f"{calls / tokens:.0f}",
            f"{cpu / tokens * 1000:.1f} CPU ms a token",
        )
    literal_found, ours = list(results.values())[:2]
    if literal_found != ours[: len(few)]:
        raise AssertionError("the literal algorithm and Safe Beam Search found different tokens")


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
