"""Requests as evaluation harnesses send them: log-probabilities of prompts, and fields without effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from known_model import KEY, LETTERS, POSITIONS
from openai import OpenAI
from transformers import AutoModelForCausalLM

from safety_ray.core.device import cpu_dtype
from safety_ray.core.tag import END_OF_TEXT, TAG

MODEL = "safety-ray"
ECHO: Any = {"model": MODEL, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}
"""The fields with which lm-evaluation-harness measures log-likelihoods, except for the prompt."""


@pytest.fixture(scope="module")
def logprobs_of(model: Path) -> Any:
    """A function from token ids to the log-probabilities (positions, vocabulary) that transformers gives."""
    oracle = AutoModelForCausalLM.from_pretrained(model, dtype=cpu_dtype())

    def compute(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            table: torch.Tensor = oracle(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        return table

    return compute


@pytest.mark.parametrize("mode", ["off", "mask", "stop"])
def test_endpoint_prompt_logprobs_match_transformers(
    client: OpenAI, tokenizer: Any, logprobs_of: Any, mode: str
) -> None:
    """After f and w, the tag is likely. It changes no log-probability of a prompt, in any mode."""
    end, tag = tokenizer.convert_tokens_to_ids([END_OF_TEXT, TAG])
    prompts = [[end, *range(26)], [5, 0, 22, 3], [end, 4], list(range(19, 26))]
    safety = {"safety": {"mode": mode}}
    choices = client.completions.create(**ECHO, prompt=prompts, extra_body=safety).choices
    for ids, choice in zip(prompts, choices, strict=True):
        found, table = choice.logprobs, logprobs_of(ids)
        assert found.token_logprobs[0] is None
        assert len(found.token_logprobs) == len(ids) + 1
        expected = table[range(len(ids) - 1), ids[1:]]
        assert found.token_logprobs[1:-1] == pytest.approx(expected.tolist(), abs=0.02)
        for step, row in zip(found.top_logprobs[1:-1], table, strict=False):
            assert max(step.values()) == pytest.approx(row.max().item(), abs=0.02)
        assert len(choice.safety["p_tags"]) == 1  # of the generated token
        expected_p_tag = table[-1, tag].exp().item()
        assert choice.safety["prompt_p_tag"] == pytest.approx(expected_p_tag, rel=0.02)


def test_endpoint_prompt_logprobs_of_text_equal_those_of_ids(client: OpenAI) -> None:
    by_text = client.completions.create(**ECHO, prompt="abcx").choices[0]
    by_ids = client.completions.create(**ECHO, prompt=[0, 1, 2, 23]).choices[0]
    assert by_text.logprobs == by_ids.logprobs
    assert by_text.text == by_ids.text == "abcxy"


def test_endpoint_rejects_end_of_text_inside_prompt(client: OpenAI, tokenizer: Any) -> None:
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    for prompt in ([end, 0, end], [end, end], [0, end]):
        with pytest.raises(openai.BadRequestError, match=rf"control token ids \[{end}\]"):
            client.completions.create(**ECHO, prompt=prompt)


def test_endpoint_echo_without_generation_has_prompt_only(client: OpenAI) -> None:
    settings: Any = {**ECHO, "max_tokens": 0, "prompt": "vw"}
    choice: Any = client.completions.create(**settings).choices[0]
    assert (choice.text, choice.logprobs.tokens) == ("vw", ["v", "w"])
    assert choice.safety["p_tags"] == []
    assert choice.safety["p_tag"] == choice.safety["prompt_p_tag"] == pytest.approx(0.6, rel=0.02)
    events: Any = list(client.completions.create(**settings, stream=True))
    assert "".join(event.choices[0].text for event in events) == "vw"
    assert [event.choices[0].safety["p_tags"] for event in events] == [[]]


def test_endpoint_stream_with_echo_reports_p_tag_of_own_tokens(client: OpenAI) -> None:
    settings: Any = {**ECHO, "max_tokens": 6, "prompt": "stuv"}
    whole: Any = client.completions.create(**settings).choices[0]
    events: Any = list(client.completions.create(**settings, stream=True))
    tokens = [token for event in events for token in event.choices[0].logprobs.tokens]
    assert tokens == whole.logprobs.tokens == list("stuvwxyz") + tokens[8:]
    p_tags = [p for event in events for p in event.choices[0].safety["p_tags"]]
    assert p_tags == pytest.approx(whole.safety["p_tags"], rel=1e-3)
    assert len(p_tags) == len(tokens) - 4
    assert p_tags[1] == pytest.approx(0.6, rel=0.02)  # after w


def test_endpoint_search_modes_refuse_prompt_logprobs(client: OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match=r"does not support prompt_logprobs \(echo with logprobs\)"
    ):
        client.completions.create(**ECHO, prompt="abc", extra_body={"safety": {"mode": "safebeam"}})


NO_EFFECT: dict[str, Any] = {
    "n": None, "logit_bias": None, "stream_options": None, "best_of": None, "suffix": None, "user": "someone",
    "do_sample": False, "metadata": {"task": "a"}, "unknown": [1, {"a": None}],
}  # fmt: skip
HELLO: Any = [
    {"role": "system", "content": "a", "name": None},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
]
STOPS = [*"ABCDEF", "ghi"]


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("completions", {"prompt": "abc", "max_tokens": 20}, "def"),
        ("chat/completions", {"messages": HELLO, "max_tokens": 20}, "abcdef"),
        ("chat/completions", {"messages": HELLO, "max_completion_tokens": 20}, "abcdef"),
    ],
)
def test_endpoint_accepts_fields_of_harnesses(
    client: OpenAI, path: str, body: dict[str, Any], text: str
) -> None:
    """Fields that are null or unknown have no effect, and any number of stop strings is used."""
    fields = {"model": MODEL, "temperature": 0, "seed": 7, **NO_EFFECT, "stop": STOPS, **body}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{client.base_url}{path}", json=fields, headers=headers, timeout=None)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    assert choice.get("text") == text or choice["message"]["content"] == text
    assert choice["finish_reason"] == "stop"


def test_endpoint_survives_long_seeded_prompts(client: OpenAI) -> None:
    """The prompts exceed the tokens of one engine step; on a CPU, their seeds must survive that."""
    prompts = [(LETTERS[i:] + LETTERS[:i]) * 70 for i in range(1, 9)]
    assert len(prompts[0]) > 0.8 * POSITIONS
    settings: Any = {"model": MODEL, "prompt": prompts, "temperature": 0.3, "seed": 7, "max_tokens": 4}
    texts = [choice.text for choice in client.completions.create(**settings).choices]
    assert texts == [LETTERS[i : i + 4] for i in range(1, 9)]
