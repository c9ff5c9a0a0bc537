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
from dataclasses import dataclass, field
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
                answer.tokens = event["usage"]["completion_tokens"]
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


@dataclass(slots=True)
class Measured:
    """One method with one number of clients: a value per turn, but the times to first token of all turns."""

    speeds: list[float] = field(default_factory=list)
    medians_ms: list[float] = field(default_factory=list)
    firsts_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def measure(self, name: str, url: str, clients: int, safety: Any) -> None:
        requests, cpu_s = max(4 * clients, 24), _cpu_of_servers()
        answers, seconds = asyncio.run(load(url, clients, requests, 64, safety))
        self.cpu_ms.append((_cpu_of_servers() - cpu_s) / requests * 1000)
        if any(answer.tokens != 64 for answer in answers):
            raise AssertionError(f"{name}: {Counter(answer.outcome for answer in answers)}")
        firsts = [answer.first_s * 1000 for answer in answers]
        self.speeds.append(sum(answer.tokens for answer in answers) / seconds)
        self.medians_ms.append(statistics.median(firsts))
        self.firsts_ms += firsts

    def compared_with(self, bare: Measured) -> str:
        ratios = sorted(a / b for a, b in zip(self.speeds, bare.speeds, strict=True))
        later = [a - b for a, b in zip(self.medians_ms, bare.medians_ms, strict=True)]
        return (
            f"{statistics.median(ratios):.2f} x bare ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
            f"first token {statistics.median(later):+.0f} ms"
        )

    def note(self) -> str:
        p50, p99 = statistics.median(self.firsts_ms), _percentile(self.firsts_ms, 99)
        cpu_ms = statistics.median(self.cpu_ms)
        return f"first token p50 {p50:.0f} ms, p99 {p99:.0f} ms; {cpu_ms:.0f} CPU ms per answer"


def rows(config: DecodeBenchmark, folder: str) -> Iterator[Row]:
    """Yield tokens/s, time to first token and CPU time of 1, 8 and 32 clients.

    The endpoint and a bare server run side by side and answer alternately, so that other work on the machine
    affects both.
    """
    for http in ("replica", "proxy"):
        with bare_server(folder) as bare, endpoint(folder, http=http) as url:
            methods = [
                (f"bare vLLM server, beside http={http}", bare, None),
                (f"endpoint, http={http}, mode off", url, {"mode": "off"}),
                (f"endpoint, http={http}, mode mask", url, {"mode": "mask"}),
            ]
            for _, server, safety in methods:
                asyncio.run(load(server, 4, 8, 16, safety))  # warm up
            for clients in (1, 8, 32):
                found = {name: Measured() for name, *_ in methods}
                for _ in range(config.repeats):
                    for name, server, safety in methods:
                        found[name].measure(name, server, clients, safety)
                unguarded = found[methods[0][0]]
                for name, _, safety in methods:
                    speed = statistics.median(found[name].speeds)
                    comparison = found[name].compared_with(unguarded) if safety else ""
                    yield Row(f"{name}, {clients} clients", speed, comparison, "", found[name].note())


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
