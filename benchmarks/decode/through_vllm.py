"""Safe Beam Search with vLLM, compared with vLLM's own beam search; and the cost of the logits processor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from benchmarks.decode.settings import DecodeBenchmark, Row
from safety_ray.core.device import cpu_dtype
from safety_ray.decode.safebeam import Search, SearchSettings


def engine(config: DecodeBenchmark, folder: str, **engine_args: Any) -> Any:
    """Return an offline vLLM engine with the engine arguments of an endpoint."""
    import torch
    from vllm import LLM

    from safety_ray.compat.vllm_scheduler import SCHEDULER

    on_cpu: dict[str, Any] = {"dtype": cpu_dtype(), "enforce_eager": True, "block_size": 32}
    return LLM(
        model=folder,
        max_model_len=512,
        max_num_seqs=256,
        scheduler_cls=SCHEDULER,
        **({} if torch.cuda.is_available() else on_cpu),
        **engine_args,
    )


def search_rows(config: DecodeBenchmark, folder: str, prompts: list[list[int]], tag: int) -> Iterator[Row]:
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import BeamSearchParams

    from safety_ray.decode.vllm_search import run_searches

    llm = engine(config, folder)
    steps, output = 0, llm.llm_engine.engine_core.get_output

    def counted() -> Any:
        nonlocal steps
        answers = output()
        steps += bool(answers.outputs)
        return answers

    llm.llm_engine.engine_core.get_output = counted
    k, length = config.beam_size, config.new_tokens
    settings = SearchSettings(tag_id=tag, beam_size=k, num_candidates=k, max_new_tokens=length)
    beams = BeamSearchParams(beam_width=k, max_tokens=length, ignore_eos=True)
    eight = (prompts * 8)[:8]

    def safe_beam_search(batch: list[list[int]]) -> None:
        run_searches(llm, batch, [Search(settings) for _ in batch])

    def beam_search(batch: list[list[int]]) -> None:
        llm.beam_search([TokensPrompt(prompt_token_ids=prompt) for prompt in batch], beams)

    methods: list[tuple[str, int, Callable[[], None]]] = [
        ("its own beam search", len(prompts), lambda: [beam_search([p]) for p in prompts]),
        ("Safe Beam Search", len(prompts), lambda: [safe_beam_search([p]) for p in prompts]),
        (f"its own beam search, {len(eight)} concurrent prompts", 1, lambda: beam_search(eight)),
        (f"Safe Beam Search, {len(eight)} concurrent prompts", 1, lambda: safe_beam_search(eight)),
    ]
    speeds: dict[str, list[float]] = {name: [] for name, _, _ in methods}
    counts: dict[str, float] = {}
    safe_beam_search(prompts[:1]), beam_search(prompts[:1])  # warm up
    for _ in range(config.repeats):  # alternating, so that other work on the machine affects all methods
        for name, runs, decode in methods:
            steps, start = 0, time.perf_counter()
            decode()
            tokens = length * (runs if runs > 1 else len(eight))
            speeds[name].append(tokens / (time.perf_counter() - start))
            # Without the first step, which computes the prompt.
            counts[name] = (steps / runs - name.startswith("Safe")) / length
    speed = {name: statistics.median(values) for name, values in speeds.items()}
    own, ours, own_concurrent, ours_concurrent = [name for name, _, _ in methods]
    for name, base in (
        (own, own),
        (ours, own),
        (own_concurrent, own_concurrent),
        (ours_concurrent, own_concurrent),
    ):
        comparison = "" if name == base else f"{speed[name] / speed[base]:.2f} x its own"
        note = f"{speed[name] / speed[ours]:.1f} x sequential" if name == ours_concurrent else ""
        yield Row(f"vLLM: {name}", speed[name], comparison, f"{counts[name]:.2f}", note)


def processor_rows(config: DecodeBenchmark, folder: str, prompts: list[list[int]], tag: int) -> Iterator[Row]:
    """Yield rows for one batch with and without the processor, in two engines that run alternately."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    from safety_ray.decode.vllm_processor import PROCESSOR, engine_config

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    unguarded = engine(config, folder)
    unguarded_processes = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    guarded = engine(
        config, folder, logits_processors=[PROCESSOR], additional_config=engine_config(tag), max_logprobs=21
    )
    known = before | {process.pid for process in unguarded_processes}
    guarded_processes = [c for c in psutil.Process().children(recursive=True) if c.pid not in known]
    batch = [TokensPrompt(prompt_token_ids=prompt) for prompt in (prompts * 32)[:32]]
    mask, stop = {"safety_mode": "mask"}, {"safety_mode": "stop", "safety_threshold": 1.0}
    ends = {"stop_token_ids": [tag]}
    methods: list[tuple[str, str, Any, list[psutil.Process], dict[str, Any]]] = [
        ("no processor", "", unguarded, unguarded_processes, {}),
        ("processor: mode off", "no processor", guarded, guarded_processes, {}),
        ("processor: mode mask", "no processor", guarded, guarded_processes, {"extra_args": mask}),
        ("processor: mode stop", "no processor", guarded, guarded_processes, {"extra_args": stop, **ends}),
        ("no processor, one log-probability", "", unguarded, unguarded_processes, {"logprobs": 1}),
        (
            "processor: mode mask, P(tag) reported",
            "no processor, one log-probability",
            guarded,
            guarded_processes,
            {"extra_args": {**mask, "safety_report": True}, "logprobs": 1},
        ),
    ]
    speed: dict[str, list[float]] = {name: [] for name, *_ in methods}
    cost: dict[str, list[float]] = {name: [] for name, *_ in methods}
    for repeat in range(config.repeats + 1):  # the first one warms up
        for name, _, llm, processes, sampling in methods:
            params = SamplingParams(max_tokens=128, ignore_eos=True, detokenize=False, **sampling)
            start, cpu = time.perf_counter(), _cpu(processes)
            tokens = sum(len(out.outputs[0].token_ids) for out in llm.generate(batch, params, use_tqdm=False))
            if repeat:
                speed[name].append(tokens / (time.perf_counter() - start))
                cost[name].append((_cpu(processes) - cpu) / tokens * 1000)
    for name, base, *_ in methods:
        note = f"{statistics.median(cost[name]):.2f} CPU ms per token"
        comparison = ""
        if base:
            comparison = f"{_ratio(speed[name], speed[base]):.3f} x {base}"
            note += f", {_ratio(cost[name], cost[base]):.3f} x"
        yield Row(name, statistics.median(speed[name]), comparison, "", note)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Return the median ratio of paired measurements."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _cpu(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(t.user + t.system for t in times)
