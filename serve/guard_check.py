"""Check at start that no request can bypass the guard; a replica that fails the check does not start.

The guard relies on private parts of Ray and vLLM. If one of them changes, requests may reach the engine
directly, or a client's text may become the harmfulness tag. The check therefore sends requests through the
same methods as the ingress does, before the replica is reported healthy.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from safety_ray.compat.ray_llm import (
    ChatCompletionRequest,
    CompletionRequest,
    ErrorResponse,
    openai_servings,
)
from serve.guard import REFUSED_PROMPT, Guard

_TIMEOUT_S = 120.0


class GuardCheckError(RuntimeError):
    """A request can bypass the guard."""

    def __init__(self, finding: str) -> None:
        super().__init__(f"the guard does not protect the model: {finding}.")


class GuardedServer(Protocol):
    """The interface of a replica that the check needs, as in serve.server.SafetyServer."""

    client: Any
    guard: Guard

    async def completions(self, request: Any, raw_request_info: Any = None) -> Any: ...

    async def chat(self, request: Any, raw_request_info: Any = None) -> Any: ...


async def check_guard(server: GuardedServer) -> None:
    """Raise GuardCheckError, in one sentence, if a request can bypass the guard of a started replica."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _check_reachability(server)
            await _check_generation(server)
            if server.guard.tag_id is not None:
                await _check_text(server)
                await _check_token_ids(server, server.guard.tag_id)
    except TimeoutError as error:
        raise GuardCheckError(f"its check did not end within {_TIMEOUT_S:g} s") from error


def _check_reachability(server: GuardedServer) -> None:
    """Check that all parts of the OpenAI layer call the guard, and none the engine's own `generate`."""
    servings = openai_servings(server)
    if not servings:
        raise GuardCheckError("vLLM's OpenAI layer has no part that calls the engine")
    for name, serving in servings.items():
        generate = serving.engine_client.generate
        if getattr(generate, "__self__", None) is not server.guard:
            raise GuardCheckError(f"{name} calls the engine's own generate")


async def _check_generation(server: GuardedServer) -> None:
    """Check that a short generation passes the guard."""
    passed = server.guard.passed
    answer = await _complete(server, "a")
    if isinstance(answer, ErrorResponse):
        raise GuardCheckError(f"a short generation failed: {answer.error.message.rstrip('.')}")
    if server.guard.passed != passed + 1:
        raise GuardCheckError("a generation did not pass the guard")


async def _check_text(server: GuardedServer) -> None:
    """Check that text that spells the tag does not reach the engine as the tag."""
    text = f"a{server.guard.tag}"
    answers = {"a prompt": await _complete(server, text)}
    if getattr(server.client.renderer.tokenizer, "chat_template", None):
        answers["a chat message"] = await _chat(server, text)
    for kind, answer in answers.items():
        if isinstance(answer, ErrorResponse):
            # A template may reject the message for reasons of its own, but no error may be the guard's.
            if kind == "a prompt" or REFUSED_PROMPT in answer.error.message:
                raise GuardCheckError(
                    f"{kind} that spells the tag failed: {answer.error.message.rstrip('.')}"
                )
            continue
        ids = _prompt_ids(answer)
        if ids is None:
            raise GuardCheckError(f"the engine did not return the token ids of {kind}")
        if server.guard.tag_id in ids:
            raise GuardCheckError(f"{kind} that spells the tag reached the engine as the tag")


async def _check_token_ids(server: GuardedServer, tag_id: int) -> None:
    """Check that a prompt of token ids that contains the tag is refused, by the server and by the guard."""
    answer = await _complete(server, [0, tag_id])
    if not isinstance(answer, ErrorResponse) or answer.error.code != 400:
        raise GuardCheckError("a prompt with the tag's token id was not refused")
    try:
        stream = server.client.generate(
            {"prompt_token_ids": [0, tag_id]}, SamplingParams(max_tokens=1), "guard-check"
        )
    except VLLMValidationError:
        return
    await stream.aclose()  # the stream has not started, so no request reached the engine
    raise GuardCheckError("the engine accepts a prompt with the tag's token id")


async def _complete(server: GuardedServer, prompt: str | list[int]) -> Any:
    request = CompletionRequest(prompt=prompt, max_tokens=1, return_token_ids=True)
    return await _first(await server.completions(request))


async def _chat(server: GuardedServer, text: str) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    request = ChatCompletionRequest(messages=messages, max_tokens=1, return_token_ids=True)
    return await _first(await server.chat(request))


async def _first(stream: Any) -> Any:
    """Return the only item of the stream of a request that does not stream."""
    answers = [answer async for answer in stream]
    if len(answers) != 1:
        raise GuardCheckError(f"a request had {len(answers)} answers")
    return answers[0]


def _prompt_ids(answer: Any) -> list[int] | None:
    """Return the prompt's token ids: of the choice in a completion, of the answer in a chat."""
    ids = getattr(answer, "prompt_token_ids", None)
    return ids if ids is not None else getattr(answer.choices[0], "prompt_token_ids", None)
