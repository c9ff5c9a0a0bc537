"""The application with which a replica answers HTTP itself: routes, keys, disconnected clients, its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from known_model import KEY
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from safety_ray.compat.ray_llm import CompletionRequest, ErrorInfo, ErrorResponse
from safety_ray.core.errors import UserError
from safety_ray.core.ports import free_port
from serve.access import AccessRules
from serve.direct import CancelOnDisconnect, DirectServer, DirectSettings, direct_app
from serve.ingress import ROUTES

MODEL = "safety-ray"
BODY = {"model": MODEL, "prompt": "ab"}


class Server:
    """A server whose methods return `items`; `requests` are those that it has received."""

    def __init__(self, *items: Any) -> None:
        self.items, self.requests = items, list[tuple[str, Any]]()
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.waits = False

    def __getattr__(self, method: str) -> Callable[..., Any]:
        async def call(request: Any, info: Any = None) -> AsyncGenerator[Any, None]:
            self.requests.append((method, request))
            return self.stream()

        return call

    async def stream(self) -> AsyncGenerator[Any, None]:
        self.started.set()
        try:
            if self.waits:
                await asyncio.Event().wait()
            for item in self.items:
                yield item
        finally:
            self.ended.set()


def app_of(server: Server, monkeypatch: pytest.MonkeyPatch, **rules: Any) -> Any:
    monkeypatch.setenv("THE_KEYS", KEY)
    settings = DirectSettings("h", 1, 60.0, AccessRules("env:THE_KEYS", **rules), True, {"model": MODEL})
    return direct_app(server, settings, {"id": MODEL})


def test_direct_app_has_routes_of_ingress_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {route.path for route in app_of(Server(), monkeypatch).routes}
    own = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}  # FastAPI's, behind the key
    assert found - own == {
        "/", "/{name}.{kind}", "/v1/models", "/v1/models/{model:path}", "/v1/completions",
        "/v1/chat/completions", "/v1/safety", "/tokenize", "/detokenize",
    }  # fmt: skip
    assert len(found - own) == len(ROUTES)


def test_direct_app_needs_key_on_native_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of vLLM's own application, and of the endpoint, without a key; then with one."""
    server = Server()
    with TestClient(app_of(server, monkeypatch)) as client:
        for method, path in [
            ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/tokenize"),
            ("GET", "/v1/models"), ("GET", "/docs"), ("GET", "/openapi.json"), ("POST", "/invocations"),
            ("POST", "/v1/responses"), ("GET", "/metrics"), ("POST", "/collective_rpc"),
            ("POST", "/inference/v1/generate"), ("POST", "/pause"), ("GET", "/server_info"),
        ]:  # fmt: skip
            assert client.request(method, path, json=BODY).status_code == 401, path
        assert client.get("/v1/safety").json() == {"model": MODEL}
        headers = {"Authorization": f"Bearer {KEY}"}
        for path in ("/invocations", "/v1/responses", "/inference/v1/generate", "/collective_rpc", "/pause"):
            assert client.post(path, json=BODY, headers=headers).status_code in (404, 405), path
    assert server.requests == []


def test_direct_app_passes_requests_to_server(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = ErrorResponse(error=ErrorInfo(message="no.", type="BadRequestError", code=400))
    headers = {"Authorization": f"Bearer {KEY}"}
    server = Server(["data: 1\n\n", "data: 2\n\n"], ["data: [DONE]\n\n"])
    with TestClient(app_of(server, monkeypatch, max_body_bytes=100)) as client:
        answer = client.post("/v1/completions", json=BODY | {"stream": True}, headers=headers)
        assert answer.text == "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
        assert answer.headers["content-type"].startswith("text/event-stream")
        server.items = (refusal,)
        refused = client.post("/v1/completions", json=BODY, headers=headers)
        assert (refused.status_code, refused.json()["error"]["message"]) == (400, "no.")
        assert client.post("/v1/completions", json=BODY | {"model": "x"}, headers=headers).status_code == 404
        too_large = client.post("/v1/completions", json=BODY | {"user": "a" * 99}, headers=headers)
        assert too_large.status_code == 413
    assert [(method, type(request)) for method, request in server.requests] == [
        ("completions", CompletionRequest)
    ] * 2


@pytest.mark.parametrize("streams", [False, True])
def test_direct_app_cancels_request_of_disconnected_client(
    monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    body = json.dumps(BODY | {"stream": streams}).encode()
    headers = {
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http", "http_version": "1.1",
    }  # fmt: skip

    async def run() -> None:
        server, sent = Server(["data: 1\n\n"]), []
        server.waits = True
        received = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if received:
                return received.pop()
            await server.started.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        async with asyncio.timeout(60):
            await app_of(server, monkeypatch)(scope, receive, send)
            await server.ended.wait()
        assert [name for name, _ in server.requests] == ["completions"]
        assert not any(message.get("body") for message in sent)

    asyncio.run(run())


def test_cancel_on_disconnect_keeps_body_and_errors() -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        if body == b"fail":
            raise ValueError("failed")
        await send({"type": "http.response.body", "body": body})
        await asyncio.sleep(0)  # a middleware may do something after the answer

    async def answer(*parts: bytes) -> list[Any]:
        waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        waiting.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[Any] = []

        async def receive() -> Any:
            return waiting.pop(0) if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message["body"])

        await CancelOnDisconnect(echo)({"type": "http"}, receive, send)
        return sent

    assert asyncio.run(answer(b"a", b"b", b"c")) == [b"abc"]
    with pytest.raises(ValueError, match="failed"):
        asyncio.run(answer(b"fail"))


def test_direct_server_drains_running_answers() -> None:
    """It refuses new connections, and ends after the running answer."""

    async def run() -> None:
        enough = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one ", "more_body": True})
            await enough.wait()
            await send({"type": "http.response.body", "body": b"two"})

        port, server = free_port(), DirectServer(app)
        await server.start("127.0.0.1", port)
        server.check()
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 cannot be used"):
            await DirectServer(app).start("127.0.0.1", port, timeout_s=0)
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("GET", f"http://127.0.0.1:{port}/") as reply,
        ):
            parts = reply.aiter_bytes()
            assert await anext(parts) == b"one "
            drained = asyncio.create_task(server.drain(60))
            async with asyncio.timeout(60), httpx.AsyncClient() as other:
                while True:
                    try:
                        await other.get(f"http://127.0.0.1:{port}/", timeout=0.2)
                    except httpx.ConnectError:
                        break
                    except httpx.TransportError:  # no answer, or accepted by the system just before the end
                        await asyncio.sleep(0.01)
            assert not drained.done()
            enough.set()
            assert await anext(parts) == b"two"
        await drained
        with pytest.raises(RuntimeError, match="the HTTP server has ended"):
            server.check()

    asyncio.run(run())


def test_direct_app_leaves_no_task_behind_a_stream() -> None:
    """At the end of a stream, Starlette cancels its wait for a disconnected client."""

    async def run() -> None:
        async def numbers() -> AsyncGenerator[bytes, None]:
            for number in range(3):
                yield str(number).encode()
                await asyncio.sleep(0.01)

        app = FastAPI()
        app.add_api_route("/numbers", lambda: StreamingResponse(numbers()))
        app.add_middleware(CancelOnDisconnect)
        server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="error"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient() as client:
            for _ in range(3):
                assert (await client.get(f"http://127.0.0.1:{server.config.port}/numbers")).text == "012"
        waiting = [task for task in asyncio.all_tasks() if "Queue.get" in task.get_coro().__qualname__]
        server.should_exit = True
        await serving
        assert waiting == []

    asyncio.run(run())
