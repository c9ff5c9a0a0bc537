"""The rows of the engine's batch that a replica counts for each request, and requests that wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from safety_ray.compat.ray_llm import ChatCompletionRequest, CompletionRequest, ErrorResponse
from safety_ray.core.errors import UserError
from serve.options import Limits, SafetyOptions
from serve.row_queue import FULL, RowQueue
from serve.server import SafetyServer

ANSWER = SimpleNamespace(choices=[])


class Replica(SafetyServer):
    """A server without an engine, which therefore has nothing to shut down."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


def replica(rows: int, max_waiting: int = 9, timeout_s: float = 600.0) -> SafetyServer:
    """Return a replica without an engine."""
    server = Replica.__new__(Replica)
    guard: Any = SimpleNamespace(
        requests={}, parse=lambda values: SafetyOptions(**(values or {})), limits=Limits(max_rows=16)
    )
    server.guard, server.rows = guard, RowQueue(rows, max_waiting)
    server._starts, server._control_ids, server._vocabulary = [], frozenset(), 64
    server._timeout_s, server._interval_s = timeout_s, 0.0
    return server


async def ask(server: SafetyServer, request: Any, during: Any = None) -> list[Any]:
    """Send a request for which the engine runs `during`, a coroutine function."""

    async def answer(request: Any, info: Any) -> AsyncGenerator[Any, None]:
        async def items() -> AsyncGenerator[Any, None]:
            if during is not None:
                await during()
            yield ANSWER

        return items()

    return [item async for item in server._answer(answer, request, None)]


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": "a", "n": 3, "safety": {"mode": "safebeam", "beam_size": 2}}, 8),  # beams of one search
        ({"prompt": ["a", "b"], "safety": {"mode": "safebeam"}}, 32),
        ({"prompt": "a", "n": 2, "safety": {"mode": "sample"}}, 8),  # one search per answer
    ],
)
def test_server_counts_rows_of_request(fields: dict[str, Any], rows: int) -> None:
    server, counted = replica(16), list[int]()

    async def during() -> None:
        counted.append(server.rows.rows)
        assert (await server.record_autoscaling_stats()) == {"engine_rows": rows}

    assert asyncio.run(ask(server, CompletionRequest(**fields), during)) == [ANSWER]
    assert (counted, server.rows.rows, server.guard.requests) == ([rows], 0, {})


@pytest.mark.parametrize("n", [-1600, 0, 17, 10**14])
@pytest.mark.parametrize("mode", ["mask", "sample", "safebeam"])
def test_server_refuses_n_before_it_counts_rows(n: int, mode: str) -> None:
    server = replica(16)

    async def during() -> None:
        pytest.fail(f"counted {server.rows.rows} rows")

    request = CompletionRequest(prompt="a", n=n, safety={"mode": mode})
    [refused] = asyncio.run(ask(server, request, during))
    assert (refused.error.code, refused.error.message.split()[0]) == (400, f"n={n}")
    assert server.guard.requests == {}


def test_server_counts_one_row_of_chat() -> None:
    server, counted = replica(16), list[int]()

    async def during() -> None:
        counted.append(server.rows.rows)

    messages: Any = [{"role": "user", "content": "a"}]
    assert asyncio.run(ask(server, ChatCompletionRequest(messages=messages), during)) == [ANSWER]
    assert counted == [1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": [[1]] * 65}, "the request has 65 prompts; send at most 64 at once."),
        (
            {"prompt": "a", "safety": {"mode": "stop"}, "vllm_xargs": {"safety_mode": "mask"}},
            "give the safety options in safety or in vllm_xargs, not in both.",
        ),
    ],
)
def test_server_refuses_request_before_it_takes_rows(fields: dict[str, Any], message: str) -> None:
    server = replica(16)
    [refused] = asyncio.run(ask(server, CompletionRequest(**fields)))
    assert isinstance(refused, ErrorResponse)
    assert (refused.error.code, refused.error.message) == (400, message)
    assert (server.rows.rows, server.guard.requests) == (0, {})


@pytest.mark.parametrize(
    ("max_waiting", "timeout_s", "message"),
    [(0, 600.0, FULL), (9, 0.05, "the answer took longer than this endpoint's request_timeout_s=0.05.")],
)
def test_server_answers_503_to_search_without_rows(max_waiting: int, timeout_s: float, message: str) -> None:
    """At once if too many searches wait, or after the request's timeout; other requests are answered."""

    async def run() -> None:
        server = replica(16, max_waiting, timeout_s)
        search: Any = {"prompt": "a", "safety": {"mode": "safebeam"}}
        async with server.rows.take(16, searches=True):
            [refused] = await ask(server, CompletionRequest(**search))
            assert isinstance(refused, ErrorResponse)
            assert (refused.error.code, refused.error.message) == (503, message)
            server._timeout_s = 600.0
            assert await ask(server, CompletionRequest(prompt="a")) == [ANSWER]
        assert await ask(server, CompletionRequest(**search)) == [ANSWER]
        assert (server.rows.rows, server.guard.requests) == (0, {})

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["safebeam", "sample"])
def test_server_keeps_sampling_defaults_of_the_model_out_of_searches(mode: str) -> None:
    """Those in generation_config.json, as Qwen2.5-Instruct has them, are for requests that are sampled."""
    defaults = {"repetition_penalty": 1.05, "top_k": 20, "min_p": 0.1}
    server, options = replica(16), SafetyOptions(mode)
    for given, accepted in (({}, True), ({"repetition_penalty": 1.05}, False)):
        request = CompletionRequest(model="m", prompt="a", safety={"mode": mode}, **given)
        server._prepare(request, "key")
        params = request.to_sampling_params(4, defaults)
        with (
            nullcontext()
            if accepted
            else pytest.raises(UserError, match="does not support repetition_penalty")
        ):
            options.check_sampling(params)
    sampled = CompletionRequest(model="m", prompt="a", safety={"mode": "mask"})
    server._prepare(sampled, "key")
    assert sampled.to_sampling_params(4, defaults).top_k == 20


@pytest.mark.parametrize("prompt", [[64], [[1], [2**40]]])
def test_server_rejects_unknown_token_ids(prompt: list[Any]) -> None:
    with pytest.raises(UserError, match=r"the token id -?\d+ is not in the vocabulary of 64 tokens"):
        replica(16)._prepare(CompletionRequest(model="m", prompt=prompt, echo=True), "key")
