"""Safe Beam Search through vLLM, against vLLM's own beam search; and what the processor costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from benchmarks.decode.settings import DecodeBenchmark, Row
from safety_ray.core.device import cpu_dtype
from safety_ray.decode.safebeam import Search, SearchSettings


def engine(config: DecodeBenchmark, folder: str, **more: Any) -> Any:
    """vLLM offline, as an endpoint of this project sets it up."""
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
        **more,
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
    many = (prompts * 8)[:8]

    def ours(some: list[list[int]]) -> None:
        run_searches(llm, some, [Search(settings) for _ in some])

    def theirs(some: list[list[int]]) -> None:
        llm.beam_search([TokensPrompt(prompt_token_ids=prompt) for prompt in some], beams)

    ways: list[tuple[str, int, Callable[[], None]]] = [
        ("its own beam search", len(prompts), lambda: [theirs([p]) for p in prompts]),
        ("Safe Beam Search", len(prompts), lambda: [ours([p]) for p in prompts]),
        (f"its own beam search, {len(many)} prompts at once", 1, lambda: theirs(many)),
        (f"Safe Beam Search, {len(many)} prompts at once", 1, lambda: ours(many)),
    ]
    found: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    counts: dict[str, float] = {}
    ours(prompts[:1]), theirs(prompts[:1])  # warm up
    for _ in range(config.repeats):  # in turns, so that what else the machine does falls on all
        for name, runs, way in ways:
            steps, start = 0, time.perf_counter()
            way()
            tokens = length * (runs if runs > 1 else len(many))
            found[name].append(tokens / (time.perf_counter() - start))
            # Beside the first step, which is the prompt's own.
            counts[name] = (steps / runs - name.startswith("Safe")) / length
    speed = {name: statistics.median(values) for name, values in found.items()}
    names = [name for name, _, _ in ways]
    alone, together = names[1], names[3]
    for name, beside in ((names[0], names[0]), (alone, names[0]), (names[2], names[2]), (together, names[2])):
        against = "" if name == beside else f"{speed[name] / speed[beside]:.2f} x its own"
        note = f"{speed[together] / speed[alone]:.1f} x one at a time" if name == together else ""
        yield Row(f"vLLM: {name}", speed[name], against, f"{counts[name]:.2f}", note)


def processor_rows(config: DecodeBenchmark, folder: str, prompts: list[list[int]], tag: int) -> Iterator[Row]:
    """One batch with and without the processor, in two engines, in turns; CPU time of their processes."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    from safety_ray.decode.vllm_processor import PROCESSOR, engine_config

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    bare = engine(config, folder)
    bare_processes = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    guarded = engine(
        config, folder, logits_processors=[PROCESSOR], additional_config=engine_config(tag), max_logprobs=21
    )
    known = before | {process.pid for process in bare_processes}
    guarded_processes = [c for c in psutil.Process().children(recursive=True) if c.pid not in known]
    batch = [TokensPrompt(prompt_token_ids=prompt) for prompt in (prompts * 32)[:32]]
    mask, stop = {"safety_mode": "mask"}, {"safety_mode": "stop", "safety_threshold": 1.0}
    ends = {"stop_token_ids": [tag]}
    ways: list[tuple[str, str, Any, list[psutil.Process], dict[str, Any]]] = [
        ("without it", "", bare, bare_processes, {}),
        ("there, not asked for", "without it", guarded, guarded_processes, {}),
        ("mask", "without it", guarded, guarded_processes, {"extra_args": mask}),
        ("stop", "without it", guarded, guarded_processes, {"extra_args": stop, **ends}),
        ("without it, one log-probability", "", bare, bare_processes, {"logprobs": 1}),
        (
            "mask and P(tag) reported",
            "without it, one log-probability",
            guarded,
            guarded_processes,
            {"extra_args": {**mask, "safety_report": True}, "logprobs": 1},
        ),
    ]
    speed: dict[str, list[float]] = {name: [] for name, *_ in ways}
    cost: dict[str, list[float]] = {name: [] for name, *_ in ways}
    for turn in range(config.repeats + 1):  # the first warms up
        for name, _, llm, processes, more in ways:
            params = SamplingParams(max_tokens=128, ignore_eos=True, detokenize=False, **more)
            start, cpu = time.perf_counter(), _cpu(processes)
            made = sum(len(out.outputs[0].token_ids) for out in llm.generate(batch, params, use_tqdm=False))
            if turn:
                speed[name].append(made / (time.perf_counter() - start))
                cost[name].append((_cpu(processes) - cpu) / made * 1000)
    for name, base, *_ in ways:
        note = f"{statistics.median(cost[name]):.2f} CPU ms a token"
        against = ""
        if base:
            against = f"{_ratio(speed[name], speed[base]):.3f} x {base}"
            note += f", {_ratio(cost[name], cost[base]):.3f} x"
        yield Row(f"processor: {name}", statistics.median(speed[name]), against, "", note)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the turns' ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _cpu(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(t.user + t.system for t in times)
