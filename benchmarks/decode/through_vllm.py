"""Safe Beam Search with vLLM, compared with vLLM's own beam search; and the cost of the logits processor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil

from benchmarks.decode.settings import DecodeBenchmark, Row, make_prompts
from safety_ray.core.device import cpu_dtype
from safety_ray.decode.safebeam import Search, SearchSettings


def engine(config: DecodeBenchmark, folder: str, **engine_args: Any) -> Any:
    """Return an offline vLLM engine with the engine arguments of an endpoint."""
    import torch
    from vllm import LLM

    from safety_ray.decode.vllm_scheduler import BLOCK_COPIES, SCHEDULER

    on_cpu: dict[str, Any] = {
        "dtype": cpu_dtype(),
        "enforce_eager": True,
        "block_size": 32,
        "worker_extension_cls": BLOCK_COPIES,
    }
    return LLM(
        model=folder,
        max_model_len=512,
        max_num_seqs=256,
        scheduler_cls=SCHEDULER,
        **({} if torch.cuda.is_available() else on_cpu),
        **engine_args,
    )


class EngineCounts:
    """Counts of what an engine has done, from its answers to the frontend."""

    def __init__(self, llm: Any) -> None:
        self.requests = self.computed = 0
        core = llm.llm_engine.engine_core
        get_output = core.get_output

        def counted() -> Any:
            answers = get_output()
            if answers.scheduler_stats is not None:
                cache = answers.scheduler_stats.prefix_cache_stats
                self.requests += cache.requests
                self.computed += cache.queries - cache.hits
            return answers

        core.get_output = counted

    def take_tokens_per_request(self) -> float:
        """Return the tokens computed per request or row since the last call."""
        value = self.computed / max(self.requests, 1)
        self.requests = self.computed = 0
        return value


def search_rows(config: DecodeBenchmark, folder: str, vocabulary: int, tag: int) -> Iterator[Row]:
    llm = engine(config, folder, disable_log_stats=False)  # the statistics contain the computed tokens
    counts = EngineCounts(llm)
    for prompt_tokens in (config.prompt_tokens, config.long_prompt_tokens):
        prompts = make_prompts(replace(config, prompt_tokens=prompt_tokens), vocabulary, tag)
        for row in _search_rows(config, llm, counts, prompts, tag):
            yield replace(row, method=f"vLLM, {prompt_tokens} tokens: {row.method}")


def _search_rows(
    config: DecodeBenchmark, llm: Any, counts: EngineCounts, prompts: list[list[int]], tag: int
) -> Iterator[Row]:
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import BeamSearchParams

    from safety_ray.decode.vllm_search import run_searches

    k, length = config.beam_size, config.new_tokens
    settings = SearchSettings(tag_id=tag, beam_size=k, num_candidates=k, max_new_tokens=length)
    beams = BeamSearchParams(beam_width=k, max_tokens=length, ignore_eos=True)
    eight = (prompts * 8)[:8]

    def safe_beam_search(batch: list[list[int]]) -> None:
        run_searches(llm, batch, [Search(settings) for _ in batch])

    def beam_search(batch: list[list[int]]) -> None:
        llm.beam_search([TokensPrompt(prompt_token_ids=prompt) for prompt in batch], beams)

    concurrent = f"{len(eight)} concurrent prompts"
    methods: list[tuple[str, str, int, Callable[[], None]]] = [
        ("its own beam search", "", len(prompts), lambda: [beam_search([p]) for p in prompts]),
        (
            "Safe Beam Search",
            "its own beam search",
            len(prompts),
            lambda: [safe_beam_search([p]) for p in prompts],
        ),
        (f"its own beam search, {concurrent}", "", len(eight), lambda: beam_search(eight)),
        (
            f"Safe Beam Search, {concurrent}",
            f"its own beam search, {concurrent}",
            len(eight),
            lambda: safe_beam_search(eight),
        ),
    ]
    speeds: dict[str, list[float]] = {name: [] for name, *_ in methods}
    computed: dict[str, float] = {}
    for *_, decode in methods:  # warm up
        decode()
    for _ in range(config.repeats):  # alternating, so that other work on the machine affects all methods
        for name, _, runs, decode in methods:
            counts.take_tokens_per_request()
            start = time.perf_counter()
            decode()
            speeds[name].append(length * runs / (time.perf_counter() - start))
            computed[name] = counts.take_tokens_per_request()
    for name, base, *_ in methods:
        comparison = f"{_ratio(speeds[name], speeds[base]):.2f} x its own" if base else ""
        note = f"{computed[name]:.2f} computed tokens per row"
        if base:
            turns = sorted(a / b for a, b in zip(speeds[name], speeds[base], strict=True))
            note += f"; turns {turns[0]:.2f} to {turns[-1]:.2f}"
        yield Row(name, statistics.median(speeds[name]), comparison, "", note)


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
        (
            "processor: mode mask, totals of P(tag) reported",
            "no processor",
            guarded,
            guarded_processes,
            {"extra_args": {**mask, "safety_report": True}},
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
