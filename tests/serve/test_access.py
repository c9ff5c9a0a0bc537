"""API keys, limits and paths without a key, at a real endpoint and over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from known_model import KEY, LONG_TOKENS, OTHER_KEY
from openai import OpenAI
from waiting import eventually

from safety_ray.core.errors import UserError
from serve.access import Access, AccessRules, read_keys

MODEL = "safety-ray"


gate = threading.Event()


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that reads the whole body and answers with its size once the gate is open."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        import asyncio

        size, has_more = 0, True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            size, has_more = size + len(message.get("body", b"")), message.get("more_body", False)
        while not gate.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    rules = AccessRules(max_concurrent=3, max_body_bytes=1000)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(Access(app, rules), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        gate.set()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_access_limits_concurrent_requests_per_client(small_server: str) -> None:
    url = f"{small_server}/v1/completions"
    gate.clear()
    with ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(httpx.post, url, timeout=None) for _ in range(8)]
        try:
            eventually(lambda: sum(reply.done() for reply in replies) == 5)
            refused = [reply.result() for reply in replies if reply.done()]
        finally:
            gate.set()
    assert sorted(reply.result().status_code for reply in replies) == [200] * 3 + [429] * 5
    assert refused[0].headers["retry-after"] == "1"
    assert "more than 3 concurrent requests" in refused[0].json()["error"]["message"]
    assert httpx.post(url, timeout=None).status_code == 200


def test_access_rejects_oversized_body(small_server: str) -> None:
    assert httpx.post(small_server + "/x", content=b"a" * 1000, timeout=None).text == "1000"
    reply = httpx.post(small_server + "/x", content=b"a" * 1001, timeout=None)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(5):
            yield b"a" * 300

    reply = httpx.post(small_server + "/x", content=chunks(), timeout=None)  # without a declared length
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, 413)


def test_read_keys_reads_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("# mine\nabcdefghijklmnop\n\n  qrstuvwxyzabcdef  \n")
    monkeypatch.setenv("MY_KEYS", "qrstuvwxyzabcdef, abcdefghijklmnop")
    assert sorted(read_keys(str(file))) == sorted(read_keys("env:MY_KEYS"))
    assert read_keys("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# none\n", "has no keys"),
        ("short\n", "1 keys of less than 16 characters"),
        (None, "cannot be read"),
    ],
)
def test_read_keys_hides_invalid_keys_in_user_error(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        read_keys(str(file))
    assert "short" not in str(refused.value)


def test_endpoint_rejects_missing_or_invalid_api_key(client: OpenAI) -> None:
    for key in ("", "key-of-the-tests-0003", KEY + "x", KEY[:-1]):
        other = OpenAI(base_url=client.base_url, api_key=key or "none", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="no valid API key"):
            other.completions.create(model=MODEL, prompt="a")
        with pytest.raises(openai.AuthenticationError):
            other.models.list()
    other = OpenAI(base_url=client.base_url, api_key=OTHER_KEY, max_retries=0)
    assert other.completions.create(model=MODEL, prompt="a", max_tokens=2).choices[0].text == "bc"
    bare = httpx.post(f"{client.base_url}completions", json={"model": MODEL, "prompt": "a"}, timeout=None)
    assert (bare.status_code, bare.headers["www-authenticate"]) == (401, "Bearer")


def test_endpoint_serves_settings_and_page_without_key(client: OpenAI) -> None:
    settings = httpx.get(f"{client.base_url}safety", timeout=None).json()
    assert (settings["model"], settings["needs_key"], settings["threshold"]) == (MODEL, True, 0.3)
    assert KEY not in str(settings)
    page = httpx.get(str(client.base_url).removesuffix("v1/"), timeout=None)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("..%2Fapp.py", "app.py", "nothing.js"):
        assert httpx.get(str(client.base_url).removesuffix("v1/") + path, timeout=None).status_code in (
            401,
            404,
        )


def test_endpoint_limits_concurrent_requests_per_key(client: OpenAI) -> None:
    """A request that has ended, or whose client has disconnected, no longer counts."""
    other = OpenAI(base_url=client.base_url, api_key=OTHER_KEY, max_retries=0)
    long_request: Any = {"model": MODEL, "prompt": "b", "max_tokens": LONG_TOKENS, "stream": True}
    # The rows of 16 searches fit the engine's batch, so that none of them waits for another to end.
    small: Any = {"mode": "safebeam", "beam_size": 2, "num_candidates": 2}
    search: Any = {"ignore_eos": True, "safety": small}

    def open_stream(_: int) -> Any:
        try:
            return other.completions.create(**long_request, extra_body=search)
        except openai.RateLimitError as error:
            return error

    with ThreadPoolExecutor(32) as pool:  # concurrent, so that all are running when the last one arrives
        opened = list(pool.map(open_stream, range(32)))
    refused = [result for result in opened if isinstance(result, openai.RateLimitError)]
    streams = [result for result in opened if not isinstance(result, openai.RateLimitError)]
    assert refused
    assert "more than 16 concurrent requests" in str(refused[0])
    assert len(streams) >= 16
    assert client.completions.create(model=MODEL, prompt="a", max_tokens=1).choices[0].text == "b"
    for stream in streams:
        stream.close()

    def has_room() -> bool:
        try:
            return other.completions.create(model=MODEL, prompt="a", max_tokens=1).choices[0].text == "b"
        except openai.RateLimitError:
            return False

    eventually(has_room, 60)
