"""Load beyond an endpoint's capacity: it starts another engine, and returns 503 until the engine is ready."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from known_model import KEY, LONG_TOKENS
from openai import OpenAI
from ray import serve
from waiting import eventually

from serve.app import APP, ServeConfig, start, stop

pytestmark = pytest.mark.covers("serve")
TIMEOUT_S = 5.0


@pytest.fixture
def small(ray_cluster: None, no_endpoint: None, config: ServeConfig) -> Iterator[OpenAI]:
    """An endpoint with the rows of one search, two queued requests, and a second engine under load."""
    settings = dataclasses.replace(
        config,
        max_num_seqs=16,
        max_rows=16,
        max_queued_requests=2,
        max_replicas=2,
        request_timeout_s=TIMEOUT_S,
        autoscaling={"upscale_delay_s": 1, "downscale_delay_s": 2, "look_back_period_s": 2},
    )
    try:
        with OpenAI(base_url=start(settings), api_key=KEY, timeout=600, max_retries=0) as client:
            yield client
    finally:
        stop(settings)


def engines() -> int:
    deployments = serve.status().applications[APP].deployments
    [server] = [d for name, d in deployments.items() if "LLMServer" in name or "SafetyServer" in name]
    return int(server.replica_states.get("RUNNING", 0))


def ask(client: OpenAI) -> str:
    """Request an answer that takes longer than the endpoint allows."""
    try:
        client.completions.create(
            model="safety-ray",
            prompt="ab",
            max_tokens=LONG_TOKENS,
            extra_body={"ignore_eos": True, "safety": {"mode": "safebeam"}},
        )
    except openai.InternalServerError as error:
        return f"{error.status_code}: {error}"
    return "answered"


def test_endpoint_upscales_under_load_and_returns_503_when_full(small: OpenAI) -> None:
    assert engines() == 1
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: ask(small), range(8)))
    assert sum("too many requests waiting" in outcome for outcome in outcomes) >= 2, outcomes
    assert sum(f"request_timeout_s={TIMEOUT_S:g}" in outcome for outcome in outcomes) >= 2, outcomes
    assert all(outcome.startswith("503: ") for outcome in outcomes)

    enough = threading.Event()

    def keep_asking() -> None:
        while not enough.is_set():
            ask(small)

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(keep_asking)
        try:
            eventually(lambda: engines() == 2, 600, told=lambda: serve.status().applications[APP])
        finally:
            enough.set()
    eventually(lambda: engines() == 1, 120)
    assert small.completions.create(model="safety-ray", prompt="a", max_tokens=3).choices[0].text == "bcd"
