"""Metrics of answers, and of searches whose clients have disconnected.

These tests run before all other tests of the endpoint, since metrics may arrive seconds after a request.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

from endpoint_metrics import metrics, stable_metrics, wait_for_searches
from known_model import KEY, LONG_TOKENS
from openai import OpenAI
from waiting import eventually

MODEL = "safety-ray"
LONG: Any = {"model": MODEL, "prompt": "ab", "max_tokens": LONG_TOKENS}
BODY: Any = {"ignore_eos": True, "safety": {"mode": "safebeam"}}


def test_endpoint_metrics_count_requests_steps_and_p_tag(client: OpenAI) -> None:
    before = stable_metrics()
    safe: Any = {"safety": {"mode": "safebeam"}}
    for _ in range(3):
        client.completions.create(model=MODEL, prompt="ab", max_tokens=5, extra_body=safe)
    stop: Any = {"safety": {"mode": "stop"}}
    client.completions.create(model=MODEL, prompt="u", max_tokens=9, temperature=0, extra_body=stop)

    def grown(name: str) -> float:
        return metrics().get(name, 0.0) - before.get(name, 0.0)

    eventually(lambda: grown("requests_total stop content_filter") == 1, told=metrics)
    eventually(lambda: grown("requests_total safebeam length") == 3, told=metrics)
    eventually(lambda: grown("search_steps_total") == 18)  # five tokens each, and the prompt
    eventually(
        lambda: grown("p_tag_bucket stop 0.5") == 0 and grown("p_tag_bucket stop +Inf") == 1, told=metrics
    )
    assert grown("p_tag_bucket safebeam 0.01") == 3


def test_endpoint_cancels_search_after_client_disconnect(client: OpenAI) -> None:
    wait_for_searches(0, 300)
    before = stable_metrics().get("requests_total safebeam cancelled", 0.0)
    streams = [client.completions.create(**LONG, stream=True, extra_body=BODY) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
    wait_for_searches(3, 300)
    for stream in streams:
        stream.close()
    wait_for_searches(0, 300)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with closing(HTTPConnection(client.base_url.host, client.base_url.port)) as whole:  # without streaming
        whole.request("POST", "/v1/completions", json.dumps(LONG | BODY), headers)
        wait_for_searches(1, 300)
    wait_for_searches(0, 300)
    eventually(lambda: metrics().get("requests_total safebeam cancelled") == before + 4, told=metrics)
    time.sleep(5)  # by now Ray would have dropped a stale gauge of zero
    wait_for_searches(0)
