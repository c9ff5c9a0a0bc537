"""The engines without the job: vLLM in this process, and an asyncio client of a vLLM server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx

from benchmarks.rewrite.prompts import engine_args, sampling
from benchmarks.rewrite.settings import Clock, RewriteBenchmark, Run
from benchmarks.vllm_server import vllm_server


class Bare:
    """vLLM in this process."""

    def __init__(self, model: str, config: RewriteBenchmark) -> None:
        from vllm import LLM, SamplingParams

        self.llm = LLM(model=model, **engine_args(config))
        self.params = SamplingParams(**sampling(config))

    def __call__(self, chats: list[list[dict[str, str]]], clock: Clock) -> Run:
        self.llm.reset_prefix_cache()
        start = time.time()
        outputs = self.llm.chat(chats, self.params, use_tqdm=False)
        end = time.time()
        prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
        cached = sum(output.num_cached_tokens or 0 for output in outputs)
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        return Run(tokens, end - start, clock.between(start, end), cached / prompt_tokens)


@contextmanager
def bare_engine(model: str, config: RewriteBenchmark) -> Iterator[Bare]:
    bare = Bare(model, config)
    try:
        yield bare
    finally:
        bare.llm.llm_engine.engine_core.shutdown()


def server(model: str, config: RewriteBenchmark) -> AbstractContextManager[str]:
    """Start a vLLM server with the engine arguments of the job."""
    flags: list[str] = []
    for name, value in engine_args(config).items():
        flag = name.replace("_", "-")
        flags += {True: [f"--{flag}"], False: [f"--no-{flag}"]}.get(value, [f"--{flag}", str(value)])
    return vllm_server(model, "m", flags, {})


async def client(url: str, chats: list[list[dict[str, str]]], config: RewriteBenchmark, clock: Clock) -> Run:
    slots, start = asyncio.Semaphore(config.seqs), time.time()
    async with httpx.AsyncClient(timeout=600) as client:

        async def ask(messages: list[dict[str, str]]) -> int:
            body = {"model": "m", "messages": messages, **sampling(config)}
            async with slots:
                answer = await client.post(f"{url}/chat/completions", json=body)
            return int(answer.json()["usage"]["completion_tokens"])

        tokens = sum(await asyncio.gather(*map(ask, chats)))
    end = time.time()
    return Run(tokens, end - start, clock.between(start, end))
