"""The endpoint compared with a bare vLLM server, and a soak test with clients that disconnect."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from benchmarks.decode.settings import DecodeBenchmark, Row
from benchmarks.vllm_server import vllm_server
from safety_ray.core.device import cpu_dtype
from safety_ray.core.ports import free_port
from safety_ray.decode.modes import MODES
from serve.app import ServeConfig, start, stop

MODEL, PROMPT = "safety-ray", "Tell me how the river runs to the sea."


def bare_server(folder: str) -> AbstractContextManager[str]:
    """Run vLLM's own OpenAI-compatible server with the engine arguments of the endpoint."""
    flags = ["--max-model-len", "512", "--max-num-seqs", "64"]
    if not _gpus():
        flags += ["--dtype", cpu_dtype(), "--enforce-eager", "--block-size", "32"]
    return vllm_server(folder, MODEL, flags, {"TORCH_COMPILE_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"})


@contextmanager
def endpoint(folder: str, **settings: Any) -> Iterator[str]:
    """Run this project's endpoint."""
    config = ServeConfig(
        model=folder, port=free_port(), max_model_len=512, max_num_seqs=64, max_concurrent=0, **settings
    )
    try:
        yield start(config)
    finally:
        stop(config)


@dataclass(slots=True)
class Answer:
    first_s: float = 0.0
    whole_s: float = 0.0
    tokens: int = 0
    outcome: str = "incomplete"


async def ask(
    client: httpx.AsyncClient, url: str, tokens: int, safety: Any, leave_after: float = 0
) -> Answer:
    """Request one streamed completion; disconnect after `leave_after` seconds if it is not 0."""
    body: dict[str, Any] = {
        "model": MODEL, "prompt": PROMPT, "max_tokens": tokens, "temperature": 1.0, "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": not safety or safety["mode"] != "stop",  # mode stop needs to end texts
    }  # fmt: skip
    if safety:
        body["safety"] = safety
    answer, start_s = Answer(), time.perf_counter()
    async with client.stream("POST", f"{url}/completions", json=body) as reply:
        if reply.status_code != 200:
            answer.outcome = f"HTTP {reply.status_code}"
            return answer
        async for line in reply.aiter_lines():
            now = time.perf_counter() - start_s
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                answer.outcome = f"error {event['error']}"
            elif event["choices"]:
                answer.first_s = answer.first_s or now
                if event["choices"][0]["finish_reason"]:
                    answer.outcome = event["choices"][0]["finish_reason"]
            elif event.get("usage"):
                answer.tokens, answer.whole_s = event["usage"]["completion_tokens"], now
            if leave_after and now > leave_after:
                answer.outcome = "disconnected"
                return answer
    return answer


async def load(
    url: str, concurrency: int, requests: int, tokens: int, safety: Any
) -> tuple[list[Answer], float]:
    """Send `requests` requests from `concurrency` clients, each of which waits for its answer."""
    remaining, answers, start_s = requests, [], time.perf_counter()

    async def run_client(client: httpx.AsyncClient) -> None:
        nonlocal remaining
        while remaining > 0:
            remaining -= 1
            answers.append(await ask(client, url, tokens, safety))

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        await asyncio.gather(*(run_client(client) for _ in range(concurrency)))
    return answers, time.perf_counter() - start_s


def rows(config: DecodeBenchmark, folder: str) -> Iterator[Row]:
    """Yield time to first token, tokens/s and CPU time with 1, 8 and 32 clients."""
    off, mask = {"mode": "off"}, {"mode": "mask"}
    servers: list[tuple[str, Any, Any]] = [
        ("bare vLLM server", bare_server(folder), None),
        ("endpoint, mode off", endpoint(folder, report=False), off),
        ("endpoint, mode mask, P(tag) reported", endpoint(folder), mask),
        ("http=proxy, mode off", endpoint(folder, report=False, http="proxy"), off),
        ("http=proxy, mode mask, P(tag) reported", endpoint(folder, http="proxy"), mask),
    ]
    bare: dict[int, tuple[float, float]] = {}
    for name, server, safety in servers:
        with server as url:
            asyncio.run(load(url, 4, 8, 16, safety))  # warm up
            for concurrency in (1, 8, 32):
                requests = max(4 * concurrency, 24)
                cpu_s = _cpu_of_servers()
                answers, seconds = asyncio.run(load(url, concurrency, requests, 64, safety))
                cpu_s = _cpu_of_servers() - cpu_s
                wrong = [answer for answer in answers if answer.tokens != 64]
                if wrong:
                    raise AssertionError(f"{name}: {Counter(answer.outcome for answer in wrong)}")
                first = [answer.first_s * 1000 for answer in answers]
                speed = sum(answer.tokens for answer in answers) / seconds
                p50, p99 = statistics.median(first), _percentile(first, 99)
                bare.setdefault(concurrency, (speed, p50))
                comparison = ""
                if safety:
                    base, base_first = bare[concurrency]
                    comparison = f"{speed / base:.2f} x bare, first token {p50 - base_first:+.0f} ms"
                note = f"first token p50 {p50:.0f} ms, p99 {p99:.0f} ms"
                speeds = [answer.tokens / answer.whole_s for answer in answers]
                slow = _percentile(speeds, 1)
                note += f"; per client p50 {statistics.median(speeds):.0f}, p99 {slow:.0f} tokens/s"
                note += f"; {cpu_s / requests * 1000:.0f} CPU ms per answer"
                yield Row(f"{name}, {concurrency} clients", speed, comparison, "", note)


def soak_rows(config: DecodeBenchmark, folder: str) -> Iterator[Row]:
    """Send requests in all modes for two minutes; a third of the clients disconnect during the answer."""
    with endpoint(folder) as url:
        asyncio.run(load(url, 4, 8, 16, {"mode": "safebeam"}))
        outcomes, tokens, seconds, memory = asyncio.run(_soak(url, config.soak_s, config.seed))
        asyncio.run(asyncio.sleep(2))
        after = asyncio.run(load(url, 1, 3, 16, {"mode": "safebeam"}))[0]
    expected = {"length", "disconnected", "stop", "content_filter"}
    errors = {name: count for name, count in outcomes.items() if name not in expected}
    growth = (memory[-1] - memory[len(memory) // 3]) / 2**20
    yield Row(
        f"soak of {seconds:.0f} s, 12 clients, all modes",
        tokens / seconds,
        f"{sum(outcomes.values())} answers, {outcomes['disconnected']} clients disconnected, "
        f"errors: {errors or 'none'}",
        "",
        f"memory of the replica and the ingress in the last two thirds {growth:+.0f} MiB; "
        f"answers afterwards {'correct' if all(a.tokens == 16 for a in after) else 'WRONG'}",
    )


async def _soak(url: str, seconds: float, seed: int) -> tuple[Counter[str], int, float, list[int]]:
    start_s, outcomes, tokens, memory = time.perf_counter(), Counter[str](), 0, list[int]()
    modes = [{"mode": mode} for mode in MODES]

    async def run_client(index: int, client: httpx.AsyncClient) -> None:
        nonlocal tokens
        rng = random.Random(seed * 1000 + index)
        while time.perf_counter() - start_s < seconds:
            leave_after = rng.uniform(0.01, 1.0) if rng.random() < 1 / 3 else 0
            answer = await ask(client, url, rng.choice([4, 16, 48]), rng.choice(modes), leave_after)
            outcomes[answer.outcome] += 1
            tokens += answer.tokens

    async def sample_memory() -> None:
        while time.perf_counter() - start_s < seconds:
            memory.append(_memory())
            await asyncio.sleep(2)

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        await asyncio.gather(sample_memory(), *(run_client(i, client) for i in range(12)))
    return outcomes, tokens, time.perf_counter() - start_s, memory


def _cpu_of_servers() -> float:
    """Return the CPU seconds of this process's servers: all processes that descend from it."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def _memory() -> int:
    """Return the resident memory of the endpoint's processes in bytes."""
    total = 0
    for process in psutil.process_iter(["name", "cmdline", "memory_info"]):
        title = " ".join(process.info["cmdline"] or []) + str(process.info["name"])
        if "ServeReplica" in title or "EngineCore" in title:
            total += process.info["memory_info"].rss
    return total


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def _gpus() -> bool:
    import torch

    return torch.cuda.is_available()
