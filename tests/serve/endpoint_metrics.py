"""Read the endpoint's metrics from Ray, as Prometheus would."""

from __future__ import annotations

import re
import time

import httpx
import ray
from waiting import eventually


def metrics() -> dict[str, float]:
    """Return the endpoint's metrics from Ray, as Prometheus would read them."""
    [node] = [node for node in ray.nodes() if node["Alive"]]
    text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=None).text
    values: dict[str, float] = {}
    for line in text.splitlines():
        if match := re.match(r"ray_safety_(\w+)\{(.*)\} (\S+)", line):
            name, labels, value = match.groups()
            tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            key = " ".join([name, *(tags[k] for k in ("mode", "outcome", "le") if tags.get(k))])
            values[key] = values.get(key, 0.0) + float(value)
    return values


def stable_metrics() -> dict[str, float]:
    """Return the metrics once all updates from earlier requests have arrived."""
    before: dict[str, float] = {}
    while before != (now := metrics()):
        before = now
        time.sleep(11)  # two of the intervals that tests/conftest.py sets
    return now


def wait_for_searches(number: int, seconds: float = 40) -> None:
    """Wait until the metrics report `number` searches in flight."""
    eventually(lambda: metrics().get("searches_in_flight") == number, seconds, told=metrics)
