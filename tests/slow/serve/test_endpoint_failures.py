"""Clients that disconnect, one after the other and many at once, and an engine that is killed."""

from __future__ import annotations

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import openai
import psutil
import pytest
from endpoint_metrics import metrics, stable_metrics, wait_for_searches
from known_model import KEY, LONG_TOKENS
from openai import OpenAI
from ray_head import Head
from waiting import eventually

pytestmark = pytest.mark.covers("serve", "safety_ray.decode")
MODEL = "safety-ray"
LONG: Any = {"model": MODEL, "prompt": "ab", "max_tokens": LONG_TOKENS}
BODY: Any = {"ignore_eos": True, "safety": {"mode": "safebeam"}}


def controller_log(head: Head) -> str:
    """Return Ray Serve's log about its replicas."""
    logs = head.folder.glob("session_latest/logs/serve/controller_*.log")
    return "".join(log.read_text() for log in logs)


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


def test_endpoint_cancels_all_searches_after_many_disconnects(client: OpenAI) -> None:
    before = stable_metrics().get("requests_total safebeam cancelled", 0.0)
    with ThreadPoolExecutor(16) as pool:
        futures = [
            pool.submit(client.completions.create, **LONG, stream=True, extra_body=BODY) for _ in range(16)
        ]
        for future in as_completed(futures):  # some wait for the rows of others
            future.result().close()
    eventually(lambda: metrics().get("requests_total safebeam cancelled") == before + 16, 120, told=metrics)


def test_endpoint_restarts_killed_engine(client: OpenAI, ray_cluster: Head) -> None:
    """Until the engine is started again, clients receive errors with nothing internal."""
    [worker] = ray_cluster.workers("VLLM::Worker")
    errors: list[str] = []
    worker.send_signal(signal.SIGILL)

    def answers() -> bool:
        try:
            short = client.with_options(timeout=10.0)
            return short.completions.create(model=MODEL, prompt="a", max_tokens=3).choices[0].text == "bcd"
        except openai.APIStatusError as error:
            errors.append(error.response.text)
            return False
        except openai.APIError:
            return False

    psutil.wait_procs([worker])
    eventually(lambda: "VllmWorker-0 was killed by SIGILL" in controller_log(ray_cluster), 600)
    eventually(answers, 600, told=metrics)
    for text in errors:
        assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}, text
        assert not re.search(r"Traceback|\.py|site-packages|127\.0\.0\.1|[0-9a-f]{16}", text)
