"""The check of the guard at start: each way to bypass the guard is found, on a stand-in for the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from safety_ray.compat.ray_llm import ErrorInfo, ErrorResponse
from serve.guard import REFUSED_PROMPT
from serve.guard_check import GuardCheckError, check_guard

TAG, TAG_ID = "<|harmful|>", 9


class Guard:
    """Refuses prompts with the tag and counts the others, as serve.guard.Guard does."""

    tag = TAG

    def __init__(self, tag_id: int | None = TAG_ID) -> None:
        self.tag_id, self.passed = tag_id, 0

    def generate(self, prompt: Any, params: Any, request_id: str) -> list[int]:
        if self.tag_id in prompt["prompt_token_ids"]:
            raise VLLMValidationError(REFUSED_PROMPT)
        self.passed += 1
        return list(prompt["prompt_token_ids"])


class Engine:
    """An engine client without a guard."""

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        yield prompt


class Replica:
    """A guarded replica; `servings` are the parts of the OpenAI layer. Tests break parts of it."""

    def __init__(self, tag_id: int | None = TAG_ID) -> None:
        self.guard = Guard(tag_id)
        tokenizer = SimpleNamespace(chat_template="{{ messages }}")
        self.client: Any = SimpleNamespace(
            generate=self.guard.generate, renderer=SimpleNamespace(tokenizer=tokenizer)
        )
        self.servings: dict[str, Any] = {
            name: SimpleNamespace(engine_client=self.client) for name in ("completion", "chat")
        }
        self.text_becomes_tag: set[str] = set()  # of "completions" and "chat"
        self.checks_token_ids = True
        self.passes_guard = True

    @property
    def engine(self) -> Any:
        return SimpleNamespace(_app_state=SimpleNamespace(_state=self.servings))

    async def completions(self, request: Any, raw_request_info: Any = None) -> Any:
        if isinstance(request.prompt, list):
            if self.checks_token_ids and self.guard.tag_id in request.prompt:
                return self.stream(error("the prompt contains the control token ids [9]; send text instead."))
            return self.stream(self.answer(request.prompt))
        return self.stream(self.answer(self.encode(request.prompt, "completions")))

    async def chat(self, request: Any, raw_request_info: Any = None) -> Any:
        return self.stream(self.answer(self.encode(request.messages[0]["content"], "chat")))

    def encode(self, text: str, method: str) -> list[int]:
        if method in self.text_becomes_tag and TAG in text:
            return [1, TAG_ID]
        return [1] * len(text)

    def answer(self, ids: list[int]) -> Any:
        if self.passes_guard:
            try:
                self.guard.generate({"prompt_token_ids": ids}, None, "")
            except VLLMValidationError as refusal:
                return error(str(refusal))
        return SimpleNamespace(prompt_token_ids=ids, choices=[])

    async def stream(self, answer: Any) -> AsyncGenerator[Any, None]:
        yield answer


def error(message: str) -> ErrorResponse:
    return ErrorResponse(error=ErrorInfo(message=message, type="BadRequestError", code=400))


async def finding(replica: Any) -> str:
    with pytest.raises(GuardCheckError) as raised:
        await check_guard(replica)
    message = str(raised.value)
    assert message.startswith("the guard does not protect the model: ")
    assert message.endswith(".")
    assert "\n" not in message
    return message


def run(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def test_guard_check_accepts_guarded_replica() -> None:
    run(check_guard(Replica()))  # type: ignore[arg-type]
    run(check_guard(Replica(tag_id=None)))  # type: ignore[arg-type]


def test_guard_check_finds_engine_without_guard() -> None:
    replica = Replica()
    replica.client.generate = Engine().generate
    assert "completion calls the engine's own generate" in run(finding(replica))


def test_guard_check_finds_one_unguarded_part_of_openai_layer() -> None:
    replica = Replica()
    replica.servings["responses"] = SimpleNamespace(engine_client=Engine())
    assert "responses calls the engine's own generate" in run(finding(replica))
    replica.servings.clear()
    assert "no part that calls the engine" in run(finding(replica))


@pytest.mark.parametrize(("method", "kind"), [("completions", "a prompt"), ("chat", "a chat message")])
def test_guard_check_finds_text_that_becomes_the_tag(method: str, kind: str) -> None:
    replica = Replica()
    replica.text_becomes_tag = {method}
    assert f"{kind} that spells the tag failed" in run(finding(replica))


def test_guard_check_finds_tag_that_reaches_engine() -> None:
    replica = Replica()
    replica.text_becomes_tag = {"chat"}

    def count(prompt: Any, params: Any, request_id: str) -> list[int]:
        replica.guard.passed += 1
        return list(prompt["prompt_token_ids"])

    replica.guard.generate = count  # type: ignore[method-assign]
    assert "a chat message that spells the tag reached the engine as the tag" in run(finding(replica))


def test_guard_check_finds_token_ids_that_are_not_refused() -> None:
    replica = Replica()
    replica.checks_token_ids = replica.passes_guard = False

    async def completions(request: Any, raw_request_info: Any = None) -> Any:
        replica.guard.passed += 1
        return await Replica.completions(replica, request, raw_request_info)

    replica.completions = completions  # type: ignore[method-assign]
    assert "a prompt with the tag's token id was not refused" in run(finding(replica))


def test_guard_check_finds_generation_that_does_not_pass_guard() -> None:
    replica = Replica()
    replica.passes_guard = False
    assert "a generation did not pass the guard" in run(finding(replica))


def test_guard_check_reports_failed_generation() -> None:
    replica = Replica()
    replica.completions = lambda *_: broken(replica)  # type: ignore[method-assign, assignment]
    assert "a short generation failed: the engine is dead." in run(finding(replica))


async def broken(replica: Replica) -> Any:
    return replica.stream(error("the engine is dead."))
