"""The endpoint against a bare vLLM server, and a soak with clients that go away."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from benchmarks.decode.settings import DecodeBenchmark, Row
from benchmarks.vllm_server import vllm_server
from safety_ray.core.device import cpu_dtype
from safety_ray.core.ports import free_port
from serve.app import ServeConfig, start, stop

MODEL, PROMPT = "safety-ray", "Tell me how the river runs to the sea."


def bare_server(folder: str) -> AbstractContextManager[str]:
    """vLLM's own OpenAI-compatible server with the engine arguments of the endpoint."""
    flags = ["--max-model-len", "512", "--max-num-seqs", "64"]
    if not _gpus():
        flags += ["--dtype", cpu_dtype(), "--enforce-eager", "--block-size", "32"]
    return vllm_server(folder, MODEL, flags, {"TORCH_COMPILE_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"})


@contextmanager
def endpoint(folder: str, **settings: Any) -> Iterator[str]:
    """This project's endpoint."""
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
    outcome: str = "cut"


async def ask(
    client: httpx.AsyncClient, url: str, tokens: int, safety: Any, leave_after: float = 0
) -> Answer:
    """One streamed completion; `leave_after` so many seconds the client goes away (0: never)."""
    body: dict[str, Any] = {
        "model": MODEL, "prompt": PROMPT, "max_tokens": tokens, "temperature": 1.0, "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": not safety or safety["mode"] != "stop",  # which ends texts by itself
    }  # fmt: skip
    if safety:
        body["safety"] = safety
    answer, begun = Answer(), time.perf_counter()
    async with client.stream("POST", f"{url}/completions", json=body) as reply:
        if reply.status_code != 200:
            answer.outcome = f"HTTP {reply.status_code}"
            return answer
        async for line in reply.aiter_lines():
            now = time.perf_counter() - begun
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
                answer.outcome = "left"
                return answer
    return answer


async def load(
    url: str, concurrency: int, requests: int, tokens: int, safety: Any
) -> tuple[list[Answer], float]:
    """So many requests by so many clients, each asking again as soon as it has its answer."""
    left, answers, begun = requests, [], time.perf_counter()

    async def one_client(client: httpx.AsyncClient) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            answers.append(await ask(client, url, tokens, safety))

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        await asyncio.gather(*(one_client(client) for _ in range(concurrency)))
    return answers, time.perf_counter() - begun


def rows(config: DecodeBenchmark, folder: str) -> Iterator[Row]:
    """Time to first token and tokens/s at 1, 8 and 32 clients."""
    ways: list[tuple[str, Any, Any]] = [
        ("bare vLLM server", bare_server(folder), None),
        ("endpoint, mode off", endpoint(folder, report=False), {"mode": "off"}),
        ("endpoint, mode mask, P(tag) reported", endpoint(folder), {"mode": "mask"}),
    ]
    bare: dict[int, tuple[float, float]] = {}
    for name, opened, safety in ways:
        with opened as url:
            asyncio.run(load(url, 4, 8, 16, safety))  # warm up
            for concurrency in (1, 8, 32):
                requests = max(4 * concurrency, 24)
                answers, seconds = asyncio.run(load(url, concurrency, requests, 64, safety))
                wrong = [answer for answer in answers if answer.tokens != 64]
                if wrong:
                    raise AssertionError(f"{name}: {Counter(answer.outcome for answer in wrong)}")
                first = [answer.first_s * 1000 for answer in answers]
                speed = sum(answer.tokens for answer in answers) / seconds
                middle, last = statistics.median(first), _percentile(first, 99)
                bare.setdefault(concurrency, (speed, middle))
                against = ""
                if safety:
                    base, base_first = bare[concurrency]
                    against = f"{speed / base:.2f} x bare, first token {middle - base_first:+.0f} ms"
                note = f"first token p50 {middle:.0f} ms, p99 {last:.0f} ms"
                each = [answer.tokens / answer.whole_s for answer in answers]
                note += f"; each p50 {statistics.median(each):.0f}, p99 {_percentile(each, 1):.0f} tokens/s"
                yield Row(f"{name}, {concurrency} at once", speed, against, "", note)


def soak_rows(config: DecodeBenchmark, folder: str) -> Iterator[Row]:
    """All modes at once for two minutes; a third of the clients go away in mid-answer."""
    with endpoint(folder) as url:
        asyncio.run(load(url, 4, 8, 16, {"mode": "safebeam"}))
        outcomes, tokens, seconds, memory = asyncio.run(_soak(url, config.soak_s, config.seed))
        asyncio.run(asyncio.sleep(2))
        after = asyncio.run(load(url, 1, 3, 16, {"mode": "safebeam"}))[0]
    expected = {"length", "left", "stop", "content_filter"}
    errors = {name: count for name, count in outcomes.items() if name not in expected}
    grown = (memory[-1] - memory[len(memory) // 3]) / 2**20
    yield Row(
        f"soak of {seconds:.0f} s, 12 clients, all modes",
        tokens / seconds,
        f"{sum(outcomes.values())} answers, {outcomes['left']} clients left, errors: {errors or 'none'}",
        "",
        f"memory of the replica and the ingress in the last two thirds {grown:+.0f} MiB; "
        f"answers afterwards {'as before' if all(a.tokens == 16 for a in after) else 'WRONG'}",
    )


async def _soak(url: str, seconds: float, seed: int) -> tuple[Counter[str], int, float, list[int]]:
    begun, outcomes, tokens, memory = time.perf_counter(), Counter[str](), 0, list[int]()
    modes = [{"mode": mode} for mode in ("off", "mask", "stop", "safebeam", "sample")]

    async def one_client(place: int, client: httpx.AsyncClient) -> None:
        nonlocal tokens
        chance = random.Random(seed * 1000 + place)
        while time.perf_counter() - begun < seconds:
            leave = chance.uniform(0.01, 1.0) if chance.random() < 1 / 3 else 0
            answer = await ask(client, url, chance.choice([4, 16, 48]), chance.choice(modes), leave)
            outcomes[answer.outcome] += 1
            tokens += answer.tokens

    async def watch() -> None:
        while time.perf_counter() - begun < seconds:
            memory.append(_memory())
            await asyncio.sleep(2)

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        await asyncio.gather(watch(), *(one_client(i, client) for i in range(12)))
    return outcomes, tokens, time.perf_counter() - begun, memory


def _memory() -> int:
    """Bytes that the endpoint's own processes hold."""
    found = 0
    for process in psutil.process_iter(["name", "cmdline", "memory_info"]):
        title = " ".join(process.info["cmdline"] or []) + str(process.info["name"])
        if "ServeReplica" in title or "EngineCore" in title:
            found += process.info["memory_info"].rss
    return found


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def _gpus() -> bool:
    import torch

    return torch.cuda.is_available()
