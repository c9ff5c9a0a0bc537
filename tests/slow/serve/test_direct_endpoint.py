"""A replica that answers HTTP itself: its answers, disconnected clients, its end, and a killed engine."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import openai
import psutil
import pytest
from endpoint_metrics import wait_for_searches
from known_model import KEY, LETTERS, LONG_TOKENS, REFUSAL
from openai import OpenAI
from ray_head import Head
from waiting import eventually

from safety_ray.core.ports import free_port
from serve.app import ServeConfig, start, stop

pytestmark = pytest.mark.covers("serve")
MODEL = "safety-ray"
SEARCH: Any = {"ignore_eos": True, "safety": {"mode": "safebeam"}}


@pytest.fixture(scope="module")
def running() -> list[ServeConfig]:
    return []


@pytest.fixture
def direct(ray_cluster: Head, no_endpoint: None, config: ServeConfig, running: Any) -> Iterator[OpenAI]:
    """The endpoint of this module, which is started by its first test."""
    if not running:
        settings = dataclasses.replace(config, http="auto", port=free_port())
        start(settings)
        running.append(settings)
    with OpenAI(
        base_url=f"http://127.0.0.1:{running[0].port}/v1", api_key=KEY, timeout=600, max_retries=0
    ) as client:
        yield client


def answers(client: OpenAI) -> bool:
    try:
        short = client.with_options(timeout=10.0)
        return short.completions.create(model=MODEL, prompt="a", max_tokens=3).choices[0].text == "bcd"
    except openai.APIError:
        return False


def test_direct_endpoint_guards_answers_and_needs_key(direct: OpenAI, ray_cluster: Head) -> None:
    request: Any = {"model": MODEL, "prompt": "abc", "max_tokens": 40, "temperature": 0}
    stop_mode: Any = {"safety": {"mode": "stop"}}
    choice: Any = direct.completions.create(**request, extra_body=stop_mode).choices[0]
    assert (choice.text, choice.finish_reason) == (LETTERS[3:23] + REFUSAL, "content_filter")
    assert choice.safety["p_tag"] == pytest.approx(0.6, rel=0.02)
    events = list(direct.completions.create(**request, stream=True))
    assert "".join(event.choices[0].text for event in events) == LETTERS[3:]
    with pytest.raises(openai.BadRequestError, match="control token ids"):
        direct.completions.create(model=MODEL, prompt=[1, 2, 40])
    for method, path in (
        ("GET", "v1/models"),
        ("POST", "v1/completions"),
        ("GET", "metrics"),
        ("POST", "pause"),
    ):
        url = str(direct.base_url).removesuffix("v1/") + path
        assert httpx.request(method, url, json={}).status_code == 401, path
    assert not ray_cluster.workers("ProxyActor")
    assert not ray_cluster.workers("SafetyIngress")


@pytest.mark.parametrize("streams", [True, False])
def test_direct_endpoint_cancels_search_of_disconnected_client(direct: OpenAI, streams: bool) -> None:
    wait_for_searches(0, 300)
    body = {"model": MODEL, "prompt": "ab", "max_tokens": LONG_TOKENS, "stream": streams, **SEARCH}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with closing(HTTPConnection(direct.base_url.host, direct.base_url.port)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        wait_for_searches(1, 300)
    wait_for_searches(0, 300)


def test_direct_endpoint_restarts_killed_engine(direct: OpenAI, ray_cluster: Head) -> None:
    assert answers(direct)
    [worker] = ray_cluster.workers("VLLM::Worker")
    worker.send_signal(signal.SIGKILL)
    psutil.wait_procs([worker])
    eventually(lambda: answers(direct), 600)


def test_direct_endpoint_finishes_running_answer_when_it_ends(direct: OpenAI, running: Any) -> None:
    settings = running.pop()
    stream = iter(
        direct.completions.create(
            model=MODEL, prompt="ab", max_tokens=LONG_TOKENS, stream=True, extra_body={"ignore_eos": True}
        )
    )
    first = next(stream)
    ended = threading.Thread(target=stop, args=[settings])
    ended.start()
    events: Any = [first, *stream]
    ended.join()
    assert events[-1].choices[0].finish_reason == "length"
