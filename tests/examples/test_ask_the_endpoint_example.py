"""The script with a server that answers completions; tests/serve runs it with a real endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from endpoint import Endpoint
from example import load_example

from serve.options import Limits, SafetyOptions, parse_options

script = load_example("ask_the_endpoint")


def answer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    mode = body["safety"]["mode"]
    report = {"mode": mode, "p_tag": None if mode == "off" else 0.0123, "stopped": False}
    choice = {"index": 0, "text": f" as in {mode}", "finish_reason": "length", "safety": report}
    return 200, {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}


def test_example_ask_the_endpoint_prints_three_modes(capsys: pytest.CaptureFixture[str]) -> None:
    with Endpoint(answer) as endpoint:
        script.main(["Once upon a time", "--url", endpoint.url, "--key", "secret", "--max-tokens", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines[::2]] == ["off", "stop", "safebeam"]
    assert lines[1].endswith("finish_reason length, highest P(tag) not measured")
    assert lines[3].endswith("finish_reason length, highest P(tag) 0.012")
    bodies = [request["body"] for request in endpoint.requests]
    assert {body["prompt"] for body in bodies} == {"Once upon a time"}
    assert endpoint.requests[0]["headers"]["Authorization"] == "Bearer secret"


def test_example_ask_the_endpoint_sends_valid_options() -> None:
    for safety in script.MODES:
        assert parse_options(safety, SafetyOptions(), Limits()).mode == safety["mode"]
