"""Clients that go away, an engine that dies, metrics, and an end without cutting anyone off."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import openai
import psutil
import ray
from conftest import stop_running
from known_model import KEY
from openai import OpenAI
from waiting import eventually

MODEL = "safety-ray"
LONG: Any = {"model": MODEL, "prompt": "ab", "max_tokens": 400}
BODY: Any = {"ignore_eos": True, "safety": {"mode": "safebeam"}}


def metrics() -> dict[str, float]:
    """The endpoint's, as Prometheus would read them from Ray."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
    text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics").text
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := re.match(r"ray_safety_(\w+)\{(.*)\} (\S+)", line):
            name, labels, value = match.groups()
            tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            key = " ".join([name, *(tags[k] for k in ("mode", "outcome", "le") if tags.get(k))])
            found[key] = found.get(key, 0.0) + float(value)
    return found


def settled() -> dict[str, float]:
    """The metrics once nothing of what came before is still on its way."""
    before: dict[str, float] = {}
    while before != (now := metrics()):
        before = now
        time.sleep(3)  # Ray sends them every second here: see tests/conftest.py
    return now


def wait_for_searches(number: int, seconds: float = 40) -> None:
    """Until the metrics say that so many are under way."""
    eventually(lambda: metrics().get("searches_in_flight") == number, seconds, told=metrics)


def test_metrics_count_answers_steps_and_what_the_model_expected(client: OpenAI) -> None:
    before = settled()
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


def test_a_search_whose_client_has_gone_ends(client: OpenAI) -> None:
    wait_for_searches(0, 240)
    before = settled().get("requests_total safebeam cancelled", 0.0)
    streams = [client.completions.create(**LONG, stream=True, extra_body=BODY) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
    wait_for_searches(3, 120)
    for stream in streams:
        stream.close()
    wait_for_searches(0, 120)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with closing(HTTPConnection(client.base_url.host, client.base_url.port)) as whole:  # not a stream
        whole.request("POST", "/v1/completions", json.dumps(LONG | BODY), headers)
        wait_for_searches(1, 120)
    wait_for_searches(0, 120)
    eventually(lambda: metrics().get("requests_total safebeam cancelled") == before + 4, told=metrics)
    time.sleep(5)  # Ray would have forgotten by now that nothing is under way
    wait_for_searches(0)


def test_many_clients_that_go_at_once_leave_no_search_behind(client: OpenAI) -> None:
    before = settled().get("requests_total safebeam cancelled", 0.0)
    with ThreadPoolExecutor(16) as pool:
        begun = [
            pool.submit(client.completions.create, **LONG, stream=True, extra_body=BODY) for _ in range(16)
        ]
    for stream in begun:
        stream.result().close()
    eventually(lambda: metrics().get("requests_total safebeam cancelled") == before + 16, 120, told=metrics)


def test_an_engine_that_dies_is_started_again(client: OpenAI) -> None:
    engines = [p for p in psutil.process_iter(["name"]) if "EngineCore" in (p.info["name"] or "")]
    engines += [
        p
        for p in psutil.process_iter(["cmdline"])
        if any("EngineCore" in part for part in p.info["cmdline"] or []) and p not in engines
    ]
    assert engines
    for process in engines:
        process.kill()

    def answers() -> bool:
        try:
            short = client.with_options(timeout=10.0)
            return short.completions.create(model=MODEL, prompt="a", max_tokens=3).choices[0].text == "bcd"
        except (openai.APIError, openai.APITimeoutError):
            return False

    time.sleep(2)
    eventually(answers, 240, told=metrics)


def test_an_end_waits_for_the_answers_under_way(client: OpenAI) -> None:
    found: list[str] = []
    whole = client.completions.create(**{**LONG, "max_tokens": 150}, extra_body=BODY).choices[0].text
    own = OpenAI(base_url=client.base_url, api_key=KEY, timeout=120, max_retries=0)
    stream = own.completions.create(**{**LONG, "max_tokens": 150}, stream=True, extra_body=BODY)
    first = next(iter(stream)).choices[0].text

    def read() -> None:
        found.append(first + "".join(event.choices[0].text for event in stream))

    reading = threading.Thread(target=read)
    reading.start()
    stop_running()
    reading.join(150)
    assert found == [whole]
