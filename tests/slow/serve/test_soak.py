"""Two minutes of mixed requests in all modes: no error, no wrong answer, no leaked search or memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from endpoint_metrics import wait_for_searches
from known_model import KEY, LETTERS, REFUSAL
from openai import OpenAI
from ray_head import Head

from safety_ray.core.ports import free_port
from safety_ray.decode.modes import MODES
from serve.app import ServeConfig, start, stop

pytestmark = pytest.mark.covers("serve", "safety_ray.decode")
MODEL = "safety-ray"
CLIENTS, SECONDS = 6, 120.0
MAX_GROWTH_MIB = 64
"""maximum memory growth of the endpoint's processes over the second half"""
REQUESTS: list[tuple[dict[str, Any], str | None]] = [
    ({"mode": "off"}, None),
    ({"mode": "mask"}, LETTERS[3:]),
    ({"mode": "stop", "threshold": 0.3}, LETTERS[3:23] + REFUSAL),
    ({"mode": "safebeam"}, None),
    ({"mode": "sample"}, None),
]
"""modes, with the answer to "abc" if it is known exactly"""


def test_soak_covers_all_modes() -> None:
    assert [safety["mode"] for safety, _ in REQUESTS] == list(MODES)


@pytest.fixture
def client(ray_cluster: Head, no_endpoint: None, serve_config: ServeConfig) -> Iterator[OpenAI]:
    """An endpoint with the default, which answers HTTP in the replica."""
    settings = dataclasses.replace(serve_config, port=free_port())
    try:
        with OpenAI(base_url=start(settings), api_key=KEY, timeout=600, max_retries=0) as client:
            yield client
    finally:
        stop(settings)


def test_endpoint_survives_soak(client: OpenAI, ray_cluster: Head) -> None:
    wait_for_searches(0, 240)
    end = time.monotonic() + SECONDS

    def keep_asking(worker: int) -> tuple[int, set[str]]:
        """Return the number of answers, and the distinct texts from Safe Beam Search."""
        searched: set[str] = set()
        index = worker
        while time.monotonic() < end:
            safety, expected = REQUESTS[index % len(REQUESTS)]
            body: dict[str, Any] = {"safety": safety}
            settings: dict[str, Any] = {"model": MODEL, "prompt": "abc", "max_tokens": 40, "extra_body": body}
            if safety["mode"] != "sample":
                settings["temperature"] = 0
            if index % 3:
                text = client.completions.create(**settings).choices[0].text
            else:
                events = client.completions.create(**settings, stream=True)
                text = "".join(event.choices[0].text for event in events)
            assert expected is None or text == expected
            if safety["mode"] == "safebeam":
                searched.add(text)
            index += 1
        return index - worker, searched

    with ThreadPoolExecutor(CLIENTS) as pool:
        futures = [pool.submit(keep_asking, worker) for worker in range(CLIENTS)]
        time.sleep(SECONDS / 2)
        halfway = memory_mib(ray_cluster)
        results = [future.result() for future in futures]
    growth = memory_mib(ray_cluster) - halfway
    print(f"{sum(number for number, _ in results)} answers, {growth:+.0f} MiB in the second half")
    assert len(set.union(*(texts for _, texts in results))) == 1, "all answers of Safe Beam Search are equal"
    wait_for_searches(0, 240)
    assert growth < MAX_GROWTH_MIB


def memory_mib(head: Head) -> float:
    """Return the resident memory of the endpoint's processes."""
    processes = [*head.workers("ServeReplica"), *head.workers("VLLM::")]
    return float(sum(process.memory_info().rss for process in processes) / 2**20)
