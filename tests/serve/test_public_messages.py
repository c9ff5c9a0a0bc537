"""The messages that clients receive: those about their requests, and nothing internal."""

from __future__ import annotations

import string
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.provisional import domains
from ingress_in_process import ingress_client
from internal_texts import INTERNAL
from pydantic import ValidationError
from ray.serve.llm import LLMConfig
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError

from safety_ray.compat.ray_llm import ChatCompletionRequest, CompletionRequest, model_card
from safety_ray.core.errors import UserError
from serve.errors import CANNOT_PROCESS, HAS_FAILED, EndpointError, error_body, public_message
from serve.failed_requests import describe
from serve.options import Limits, SafetyOptions, parse_options

LETTERS = st.text(string.ascii_letters, min_size=2, max_size=12)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{1,12}", fullmatch=True)
FILES = st.builds("{}.{}".format, NAMES, LETTERS)
CHARACTERS = st.characters(codec="utf-8", exclude_characters="/\\\0")
PARTS = st.one_of(FILES, st.text(CHARACTERS, min_size=1, max_size=20))
"""components of a path, with spaces and punctuation too"""
PATHS = st.lists(PARTS, min_size=1, max_size=4)
"""short, because the end of a long message is not sent"""
POSIX = st.builds("{}/{}".format, st.sampled_from(["", "~", ".", "..", "$HOME"]), PATHS.map("/".join))
RELATIVE = st.builds("{}/{}".format, st.lists(NAMES, min_size=1, max_size=5).map("/".join), FILES)
WINDOWS = st.builds(
    "{}\\{}".format, st.sampled_from(["C:", "d:", "\\\\server", ".", ""]), PATHS.map("\\".join)
)
HOSTS = st.one_of(st.ip_addresses().map(str), domains())
PORTS = st.integers(0, 65535)
ADDRESSES = st.one_of(
    HOSTS,
    st.builds("{}:{}".format, st.one_of(HOSTS, LETTERS), PORTS),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), PORTS),
)
URLS = st.builds("{}://{}/{}".format, LETTERS, st.one_of(HOSTS, LETTERS), PATHS.map("/".join))
HEX = st.text("0123456789abcdef", min_size=16, max_size=64)
IDS = st.one_of(
    *(HEX, HEX.map(str.upper), st.uuids().map(str), st.uuids().map(lambda id: id.hex)),
    st.integers(0, 2**64).map(hex),
    st.sampled_from([str(uuid.UUID(int=0)), "a" * 16, "1" * 16, "abcdefab-cdef-abcd-efab-cdefabcdefab"]),
)
MODULES = st.one_of(
    st.lists(NAMES, min_size=2, max_size=5).map(".".join).filter(lambda name: not name.startswith("safety.")),
    st.lists(NAMES, min_size=2, max_size=5).map("::".join),
)
FRAMES = st.one_of(
    st.builds('File "{}", line {}, in {}'.format, LETTERS, PORTS, NAMES),
    st.builds("{}.py:{}".format, NAMES, PORTS),
    st.just("Traceback (most recent call last):"),
)
SECRETS = st.one_of(POSIX, RELATIVE, WINDOWS, URLS, ADDRESSES, IDS, MODULES, FRAMES)
SENTENCES = st.lists(LETTERS, max_size=5).map(" ".join)
BEFORE, AFTER = st.sampled_from([*" (\"'`[{<=,\n", ": ", " ("]), st.sampled_from([*" )\"'`]}>,.:;\n", "), "])


@settings(max_examples=300, deadline=None)
@given(first=SENTENCES, before=BEFORE, secret=SECRETS, after=AFTER, last=SENTENCES)
def test_public_message_replaces_secret_in_any_sentence(
    first: str, before: str, secret: str, after: str, last: str
) -> None:
    """Secrets have any form; only a bare host name without dots cannot be told from a word."""
    message = f"{first}{before}{secret}{after}{last}"
    assert public_message(message) == CANNOT_PROCESS
    assert public_message(message, is_server_error=True) == HAS_FAILED
    assert public_message(f"unknown model 'org/model'; {message}", known="org/model") == CANNOT_PROCESS


@settings(max_examples=500, deadline=None)
@given(st.text(), st.text(), st.booleans())
def test_public_message_of_any_text_is_one_short_line(text: str, known: str, is_server_error: bool) -> None:
    message = public_message(text, is_server_error, known)
    assert 0 < len(message) <= 500
    assert message.isprintable()
    assert public_message(message, is_server_error, known) == message


@pytest.mark.parametrize("message", [*INTERNAL, "", " ", "..."])
def test_public_message_replaces_internal_message(message: str) -> None:
    assert public_message(message) == CANNOT_PROCESS
    error = error_body(EndpointError(400, "n must be 1.", message))["error"]
    assert (error["message"], error["param"]) == ("n must be 1.", None)


@pytest.mark.parametrize(
    "message",
    [
        # this endpoint's own
        "n=5 answers need as many beams; beam_size is 4.",
        "send text and/or ids to /v1/completions.",
        "max_tokens must be at least 1, got -999999999999999.",
        "the temperature 0.1 is 1/10 since 2026-11-29; P(tag) >= 1e-05, and 50% of 0.30000000000000004.",
        "this path does not exist; requests go to /v1/completions or /v1/chat/completions.",
        "the body must be JSON with the header 'Content-Type: application/json'.",
        "the body must be a JSON object, such as {\"model\": \"...\", \"prompt\": \"...\"}.",
        "the body is not valid JSON in UTF-8.",
        "no valid API key; send it as 'Authorization: Bearer <key>'.",
        "the answer took longer than this endpoint's request_timeout_s=300.",
        "the prompt contains the control token ids [40, 50256]; send text instead.",
        "beam_size x num_candidates is 36, which exceeds this endpoint's limit of 32.",
        "logit_bias changes P(tag), which mode stop and prompt_threshold compare with a threshold; leave out "
        "logit_bias, or use mode mask.",
        # vLLM's
        "token_id(s) [-1, 99999] in logit_bias contain out-of-vocab token ids. Vocabulary size: 50257",
        "This model's maximum context length is 256 tokens. However, you requested 16 output tokens and your "
        "prompt contains at least 241 input tokens, for a total of at least 257 tokens. Please reduce the "
        "length of the input prompt or the number of requested output tokens.",
        "The model vocabulary size is 99, but the following tokens were specified as bad: [100]. All token "
        "id values should be integers satisfying: 0 <= token_id <= 99.",
        "Chat template is passed with request, but --trust-request-chat-template is not set. Refused request "
        "with untrusted chat template.",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "Invalid value for `tool_choice`: {'a': 1}! Only named tools, \"none\", \"auto\" or \"required\" are "
        "supported.",
        "structured_outputs.grammar cannot be an empty string",
        "max_tokens must be an int, but is of type <class 'str'>",
    ],
)  # fmt: skip
def test_public_message_keeps_other_messages(message: str) -> None:
    assert public_message(message) == message
    assert public_message(f"{message} (parameter=n, value=/home/me)") == message


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"top_p": 1.5},
        {"top_k": -5},
        {"min_p": 2.0},
        {"n": 0},
        {"n": 10**6},
        {"max_tokens": 0},
        {"max_tokens": 1, "min_tokens": 2},
        {"logprobs": -5},
        {"prompt_logprobs": -5},
        {"presence_penalty": 3.0},
        {"frequency_penalty": -2.5},
        {"repetition_penalty": 0.0},
        {"stop": [""]},
        {"bad_words": [""]},
        {"stop_token_ids": ["a"]},
        {"temperature": 0.0, "n": 2},
    ],
)
def test_public_message_keeps_refusals_of_vllm(values: Any) -> None:
    with pytest.raises(VLLMClientError) as refused:
        SamplingParams(**values)
    check_kept(refused.value)


@pytest.mark.parametrize("kind", [CompletionRequest, ChatCompletionRequest])
@pytest.mark.parametrize(
    "values",
    [
        {"n": "x"},
        {"temperature": "hot"},
        {"seed": 2**70},
        {"stream": 7},
        {"stop": 5},
        {"prompt_logprobs": -3},
        {"prompt_logprobs": 1, "stream": True},
        {"stream_options": {"include_usage": True}},
        {"response_format": {"type": "json_schema"}},
        {"structured_outputs": {"json": "{}", "regex": "a"}},
        {"truncate_prompt_tokens": "x"},
        {"logit_bias": 3},
    ],
)
def test_public_message_keeps_refused_fields(kind: Any, values: Any) -> None:
    request = (
        {"prompt": "a"} if kind is CompletionRequest else {"messages": [{"role": "user", "content": "a"}]}
    )
    with pytest.raises((ValidationError, VLLMClientError)) as refused:
        kind.model_validate({"model": "m", **request, **values})
    check_kept(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        5,
        {"mode": "kill"},
        {"mode": []},
        {"thresholt": 1},
        {"threshold": 2},
        {"threshold": "a"},
        {"beam_size": 2},
        {"mode": "safebeam", "beam_size": 9},
        {"mode": "safebeam", "beam_size": 0},
        {"mode": "safebeam", "beam_size": 2.5},
        {"mode": "safebeam", "drop_share": 1},
        {"mode": "safebeam", "length_penalty": 1e300},
        {"mode": "safebeam", "drop_by": "x"},
        {"mode": "sample", "num_candidates": 30},
    ],
)
def test_public_message_keeps_refused_options(values: Any) -> None:
    with pytest.raises(UserError) as refused:
        parse_options(values, SafetyOptions(), Limits())
    check_kept(refused.value)


def check_kept(error: Exception) -> None:
    described = describe(error)
    sentence = described.message.split(" (parameter=")[0].split(" (value=")[0]
    assert error_body(described)["error"]["message"] == " ".join(sentence.split())


async def no_answer(body: Any) -> AsyncGenerator[Any, None]:
    raise AssertionError("no request may be sent to a replica")
    yield


def test_ingress_names_its_model_whatever_its_form() -> None:
    client = ingress_client(no_answer, model="org/model-2.1")
    for response in (
        client.post("/v1/completions", json={"model": "/home/me", "prompt": "a"}),
        client.get("/v1/models//home/me"),
    ):
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (404, "model")
        assert error["message"] == "unknown model; this endpoint serves 'org/model-2.1'."


def test_model_card_has_no_path() -> None:
    config = LLMConfig(model_loading_config={"model_id": "m", "model_source": "/home/me/model"})
    assert "home" not in model_card(config).model_dump_json()
