"""Odd values in any field of a request: accepted or refused with 4xx, but never an unexpected exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from vllm.exceptions import VLLMClientError

from safety_ray.compat.ray_llm import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeCompletionRequest,
)
from safety_ray.core.errors import UserError
from serve.body import parse_json, validate
from serve.errors import EndpointError
from serve.failed_requests import describe

COMPLETE: dict[Any, dict[str, Any]] = {
    CompletionRequest: {"prompt": "a"},
    ChatCompletionRequest: {"messages": [{"role": "user", "content": "a"}]},
    TokenizeCompletionRequest: {"prompt": "a"},
    DetokenizeRequest: {"tokens": [1]},
}
ODD: list[Any] = [
    5, -1, 0, 2.5, 2**63 - 1, "", "a", True, [], [5], ["a"], [[]], [{}], [None], {}, {"a": 1}, {"type": 5},
    {"type": "json_schema"}, {"json": 5, "regex": []}, [{"role": "user"}], [{"role": "user", "content": 5}],
    [{"role": "user", "content": [{"type": 5}]}], [{"role": "assistant", "tool_calls": 5}],
]  # fmt: skip


@pytest.mark.parametrize("kind", COMPLETE)
def test_validate_accepts_or_refuses_odd_values(kind: Any) -> None:
    for name in [*kind.model_fields, "safety", "unknown"]:
        for value in ODD:
            body = {**COMPLETE[kind], name: value}
            try:
                validate(parse_json(json.dumps(body).encode()), kind)
            except (UserError, EndpointError, ValidationError, VLLMClientError) as error:
                assert 400 <= describe(error).status < 500, (name, value)  # noqa: PT017


def test_validate_names_field_of_wrong_type() -> None:
    with pytest.raises(EndpointError, match="'structured_outputs' has a value of the wrong type") as refused:
        validate({"prompt": "a", "n": 2, "structured_outputs": 5}, CompletionRequest)
    assert refused.value.param == "structured_outputs"


def test_parse_json_keeps_values_and_drops_nulls() -> None:
    text = (
        '{"a": [1, 2.5, true, null, {"b": null}], "c": null, "d": "\\ud83d\\ude00", "e": -9223372036854775}'
    )
    expected = {name: value for name, value in json.loads(text).items() if value is not None}
    assert parse_json(text.encode()) == expected
    chat = b'{"messages": [{"role": "user", "name": null, "content": [null, {"a": null}]}, null, "x"]}'
    assert parse_json(chat) == {
        "messages": [{"role": "user", "content": [None, {"a": None}]}, None, "x"],
    }
