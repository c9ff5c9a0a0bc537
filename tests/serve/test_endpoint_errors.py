"""Errors of the endpoint: one form, and nothing internal in them, whatever was raised."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from ingress_in_process import MODEL, ingress_client
from internal_texts import INTERNAL, SECRETS
from pydantic import BaseModel
from ray.exceptions import ActorUnavailableError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.llm.openai_api_models import CompletionResponse
from starlette.testclient import TestClient
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError

from safety_ray.compat.ray_llm import ErrorInfo, ErrorResponse
from safety_ray.core.errors import UserError
from serve import failed_requests
from serve.access import AccessRules
from serve.errors import CANNOT_PROCESS, HAS_FAILED, EndpointError
from serve.failed_requests import ErrorBoundary, describe
from serve.row_queue import FULL
from serve.streams import with_public_errors

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
REQUEST = {"model": MODEL, "prompt": "a"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}


async def answer_shortly(body: Any) -> AsyncGenerator[Any, None]:
    yield CompletionResponse(model=MODEL, choices=[], usage={"prompt_tokens": 1})


@pytest.fixture(scope="module")
def client() -> TestClient:
    return ingress_client(answer_shortly)


def check_form(error: Any, status: int) -> str:
    """Check the form of OpenAI's API reference, and return the message."""
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    message = error["error"]["message"]
    assert isinstance(message, str)
    assert "\n" not in message
    assert "original exception" not in message
    assert error["error"]["code"] == status
    return message


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "message", "param"),
    [
        ("GET", "/nothing", None, 404, "this path does not exist", None),
        ("GET", "/nothing.js", None, 404, "this path does not exist", None),
        ("POST", "/v1/embeddings", {}, 404, "this path does not exist", None),
        ("GET", "/v1/completions", None, 405, "does not support the request's method", None),
        ("PUT", "/v1/chat/completions", {}, 405, "does not support the request's method", None),
        ("POST", "/v1/models", {}, 405, "does not support the request's method", None),
        ("GET", "/v1/models/other", None, 404, "unknown model; this endpoint serves 'safety-ray'", "model"),
        ("POST", COMPLETIONS, {**REQUEST, "model": "other"}, 404, "unknown model", "model"),
        ("POST", COMPLETIONS, {**REQUEST, "model": f"{MODEL}:lora"}, 404, "unknown model", "model"),
        ("POST", CHATS, {**CHAT, "model": "other"}, 404, "unknown model", "model"),
        ("POST", "/tokenize", {**REQUEST, "model": "other"}, 404, "unknown model", "model"),
        ("POST", "/detokenize", {"model": "other", "tokens": [1]}, 404, "unknown model", "model"),
        ("POST", "/detokenize", {"model": MODEL, "tokens": "x"}, 400, "tokens: input should be", "tokens"),
        ("POST", COMPLETIONS, b"", 400, "not valid JSON", None),
        ("POST", COMPLETIONS, b"{", 400, "not valid JSON", None),
        ("POST", COMPLETIONS, b'{"prompt": "\xff"}', 400, "not valid JSON in UTF-8", None),
        ("POST", COMPLETIONS, b"[" * 100_000, 400, "more than 32 levels", None),
        ("POST", COMPLETIONS, b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}", 400, "more than 32", None),
        ("POST", COMPLETIONS, [1], 400, "must be a JSON object", None),
        ("POST", COMPLETIONS, {"prompt": "\ud800"}, 400, "half of a surrogate pair", None),
        ("POST", COMPLETIONS, {"\udfff": 1}, 400, "half of a surrogate pair", None),
        ("POST", CHATS, {"model": "\ud83d"}, 400, "half of a surrogate pair", None),
        ("POST", "/tokenize", {"prompt": "\ud800"}, 400, "half of a surrogate pair", None),
        ("POST", COMPLETIONS, b'{"temperature": NaN}', 400, "not finite", None),
        ("POST", COMPLETIONS, b'{"temperature": -1e999}', 400, "not finite", None),
        ("POST", COMPLETIONS, {"n": 2**63}, 400, "more than 64 bits", None),
        ("POST", COMPLETIONS, b'{"n": ' + b"1" * 5000 + b"}", 400, "more than 64 bits", None),
        ("POST", COMPLETIONS, {**REQUEST, "n": "x"}, 400, "n: input should be", "n"),
        ("POST", COMPLETIONS, {**REQUEST, "structured_outputs": 5}, 400, "wrong type", "structured_outputs"),
        ("POST", CHATS, {**CHAT, "structured_outputs": 5}, 400, "wrong", "structured_outputs"),
        ("POST", CHATS, {"model": MODEL, "messages": 5}, 400, "messages", "messages"),
        ("POST", CHATS, {"model": MODEL}, 400, "messages: field required", "messages"),
        ("POST", CHATS, {**CHAT, "top_logprobs": -3}, 400, "`top_logprobs` must be", "top_logprobs"),
    ],
)
def test_ingress_answers_errors_in_openai_form(
    client: TestClient, method: str, path: str, content: Any, status: int, message: str, param: str | None
) -> None:
    data = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    response = client.request(method, path, content=data, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert message in check_form(response.json(), status)
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "multipart/form-data", "application/jsonx"])
def test_ingress_needs_json_content_type(client: TestClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = client.post("/v1/completions", content=json.dumps(REQUEST).encode(), headers=headers)
    assert "'Content-Type: application/json'" in check_form(response.json(), 415)
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/completions", content=json.dumps(REQUEST), headers=headers).status_code == 200


def test_ingress_names_allowed_methods(client: TestClient) -> None:
    assert client.get("/v1/completions").headers["allow"] == "POST"


def test_ingress_access_errors_have_openai_form() -> None:
    client = ingress_client(answer_shortly, AccessRules(max_body_bytes=100))
    response = client.post("/v1/completions", json={**REQUEST, "prompt": "a" * 100})
    assert "larger than 100 bytes" in check_form(response.json(), 413)


def test_ingress_reads_null_as_missing_field() -> None:
    bodies: list[Any] = []

    async def answer(body: Any) -> AsyncGenerator[Any, None]:
        bodies.append(body)
        async for item in answer_shortly(body):
            yield item

    client = ingress_client(answer)
    nulls = dict.fromkeys(["n", "max_tokens", "temperature", "stop", "model", "safety", "bad_words"])
    assert client.post("/v1/completions", json={**REQUEST, **nulls}).status_code == 200
    assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200
    first, second = (body.model_dump(exclude={"request_id"}) for body in bodies)
    assert first == second
    assert first["n"] == 1


TRACEBACK = next(text for text in INTERNAL if "Traceback" in text)


def ray_task_error() -> RayTaskError:
    return RayTaskError("step", TRACEBACK, ValueError(TRACEBACK)).as_instanceof_cause()


FAULTS: list[tuple[Exception, int]] = [
    (RuntimeError(TRACEBACK), 500),
    (KeyError(TRACEBACK), 500),
    (ValueError("engine"), 500),
    (ray_task_error(), 500),
    (ExceptionGroup(TRACEBACK, [ValueError(TRACEBACK)]), 500),
    (OSError(2, "no such file", "/home/me/engine.py"), 500),
    (StopAsyncIteration(TRACEBACK), 500),
    (ActorUnavailableError(TRACEBACK, None), 503),
    (EngineDeadError(), 503),
    (BackPressureError(9, 9), 503),
    (DeploymentUnavailableError(DeploymentID("SafetyServer:worker-7", TRACEBACK)), 503),
    # the errors whose own text a client may receive
    *((UserError(text), 400) for text in INTERNAL),
    *((VLLMValidationError(text, parameter=text, value=text), 400) for text in INTERNAL),
]
REPLACEMENTS = {
    500: {HAS_FAILED},
    503: {FULL, "the engine has ended and is started again; try again later."},
    400: {CANNOT_PROCESS},
}


def test_describe_keeps_the_sentence_that_a_replica_raised() -> None:
    for cause, status in ((UserError("it is empty."), 400), (EndpointError(404, "no model."), 404)):
        described = describe(RayTaskError("step", INTERNAL, cause).as_instanceof_cause())
        assert (described.status, described.message) == (status, str(cause))


def test_describe_logs_the_frames_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    logger = logging.Logger("of this test")  # other tests may have turned that of Ray Serve off
    logger.addHandler(logging.StreamHandler(written))
    monkeypatch.setattr(failed_requests, "_logger", logger)
    assert describe(RayTaskError("step", "in inner", ValueError("x")).as_instanceof_cause()).status == 500
    assert "in inner" in written.getvalue()


def check_replaced(error: Any, status: int) -> None:
    """Check that nothing of the fault is in the error."""
    assert check_form(error, status) in REPLACEMENTS[status]
    assert error["error"]["param"] is None


def check_nothing_internal(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


def test_each_internal_text_has_a_secret() -> None:
    for text in INTERNAL:
        assert any(secret in text for secret in SECRETS), text


@pytest.mark.parametrize(("fault", "status"), FAULTS)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_ingress_hides_reason_of_failed_replica(path: str, fault: Exception, status: int) -> None:
    class Failing:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            raise fault

    client = ingress_client(lambda body: Failing())  # type: ignore[arg-type, return-value]
    response = client.post(path, json={**REQUEST, **CHAT, "tokens": [1]})
    if isinstance(fault, StopAsyncIteration):  # is the end of an answer without items
        status = 500
    assert response.status_code == status
    check_replaced(response.json(), status)
    check_nothing_internal(response.text + str(response.headers))
    assert (response.headers.get("retry-after") == "1") == (status == 503)


@pytest.mark.parametrize(("fault", "status"), [fault for fault in FAULTS if fault[1] != 503])
def test_ingress_ends_stream_of_failed_replica(fault: Exception, status: int) -> None:
    async def answer(body: Any) -> AsyncGenerator[Any, None]:
        yield ['data: {"choices": []}\n\n']
        if isinstance(fault, StopAsyncIteration):
            raise RuntimeError(TRACEBACK)
        raise fault

    response = ingress_client(answer).post("/v1/completions", json={**REQUEST, "stream": True})
    first, last, done, rest = response.text.split("\n\n")
    assert (response.status_code, first, done, rest) == (200, 'data: {"choices": []}', "data: [DONE]", "")
    check_replaced(json.loads(last.removeprefix("data: ")), status)
    check_nothing_internal(response.text)


@pytest.mark.parametrize(("fault", "status"), FAULTS)
def test_error_boundary_answers_fault_of_any_part(fault: Exception, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise fault

    response = TestClient(ErrorBoundary(app)).get("/")
    assert response.status_code == status
    check_replaced(response.json(), status)
    check_nothing_internal(response.text)


def items_of(stream: Any, streams: bool) -> list[Any]:
    async def collect() -> list[Any]:
        return [item async for item in with_public_errors(stream, streams)]

    return asyncio.run(collect())


def error_of(item: Any) -> Any:
    return item.model_dump() if isinstance(item, BaseModel) else json.loads(item[6:].split("\n\n")[0])


@pytest.mark.parametrize(("fault", "status"), FAULTS)
@pytest.mark.parametrize("before", [[], ["data: 1\n\n"], [["data: 1\n\n", "data: 2\n\n"]]])
@pytest.mark.parametrize("streams", [False, True])
def test_replica_sends_public_errors(before: list[Any], streams: bool, fault: Exception, status: int) -> None:
    async def stream() -> AsyncGenerator[Any, None]:
        for item in before:
            yield item
        raise RuntimeError(TRACEBACK) if isinstance(fault, StopAsyncIteration) else fault

    *sent, error = items_of(stream(), streams)
    assert sent == before
    assert isinstance(error, str if streams and before else ErrorResponse)
    check_replaced(error_of(error), status)
    check_nothing_internal(str(error))


@pytest.mark.parametrize("message", INTERNAL)
@pytest.mark.parametrize("separators", [None, (",", ":")])
@pytest.mark.parametrize("in_list", [False, True])
def test_replica_ends_stream_at_error_of_openai_layer(in_list: bool, separators: Any, message: str) -> None:
    """vLLM's errors in a stream are events; before any other event they become a response with a status."""
    reported = {"error": {"message": message, "type": "T", "param": "n", "code": 400}}
    prefix = "data: " if separators is None else "data:"
    event = f"{prefix}{json.dumps(reported, separators=separators)}\n\n"
    done, text = "data: [DONE]\n\n", 'data: {"choices": []}\n\n'

    async def stream(*events: Any) -> AsyncGenerator[Any, None]:
        for item in [list(events)] if in_list else events:
            yield item

    [only] = items_of(stream(event, done), True)
    assert isinstance(only, ErrorResponse)
    assert only.error.param == "n"
    assert only.error.message == CANNOT_PROCESS
    first, last = items_of(stream(text, event, done), True)
    assert first == ([text] if in_list else text)
    assert last.count(done) == 1
    assert check_form(error_of(last), 400) == CANNOT_PROCESS


@pytest.mark.parametrize("code", [500, 501, 503])
def test_replica_replaces_server_errors_of_openai_layer(code: int) -> None:
    async def stream() -> AsyncGenerator[Any, None]:
        yield ErrorResponse(error=ErrorInfo(message="see the stack trace", type="T", code=code))

    [answer] = items_of(stream(), False)
    assert check_form(error_of(answer), code) == HAS_FAILED


@pytest.mark.parametrize("message", INTERNAL)
def test_ingress_replaces_message_that_a_replica_answers(message: str) -> None:
    async def answer(body: Any) -> AsyncGenerator[Any, None]:
        yield ErrorResponse(error=ErrorInfo(message=message, type="T", param=message, code=400))

    client = ingress_client(answer)
    for path in (COMPLETIONS, CHATS, "/tokenize", "/detokenize"):
        response = client.post(path, json={**REQUEST, **CHAT, "tokens": [1]})
        check_replaced(response.json(), 400)
