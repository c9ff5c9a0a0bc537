"""Metrics of answers.

This test runs before all other tests of the endpoint, since metrics may arrive seconds after a request.
"""

from __future__ import annotations

from typing import Any

from endpoint_metrics import metrics, stable_metrics
from openai import OpenAI
from waiting import eventually

MODEL = "safety-ray"


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
