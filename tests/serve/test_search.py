"""Searches of the endpoint, called with OpenAI's client and compared with transformers on the same model."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from known_model import LETTERS, POSITIONS, REFUSAL
from openai import OpenAI
from transformers import AutoModelForCausalLM

from safety_ray.core.device import cpu_dtype
from safety_ray.core.tag import END_OF_TEXT, TAG, encode
from safety_ray.decode import hf
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.decode.words import word_starts

MODEL, PROMPT = "safety-ray", "abc"
BEAM = {"mode": "safebeam"}


@pytest.fixture(scope="module")
def oracle(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=cpu_dtype()).eval()


@pytest.fixture(scope="module")
def ids(tokenizer: Any) -> dict[str, Any]:
    tag, end = tokenizer.convert_tokens_to_ids([TAG, END_OF_TEXT])
    return {"tag_id": tag, "eos_ids": {end}, "max_new_tokens": 30}


def complete(client: OpenAI, safety: Any, **more: Any) -> Any:
    body = {"safety": safety, "return_token_ids": True}
    return client.completions.create(
        **{"model": MODEL, "prompt": PROMPT, "max_tokens": 30, **more}, extra_body=body
    )


def run_search(oracle: Any, tokenizer: Any, search: Search, prompt: str = PROMPT) -> Search:
    hf.run_searches(oracle, encode(tokenizer, [prompt]), [search])
    return search


def test_endpoint_safebeam_matches_transformers(
    client: OpenAI, oracle: Any, tokenizer: Any, ids: Any
) -> None:
    variant = {"drop_by": "word", "drop_threshold": 0.01, "early_stopping": "never"}
    words = word_starts(tokenizer)
    for settings in ({}, {"beam_size": 2, "num_candidates": 3}, {"stride": 3}, {"drop_share": 0.25}, variant):
        options = SearchSettings(**ids, **settings, words=words)
        expected = run_search(oracle, tokenizer, Search(options)).hypotheses()[0]
        [choice] = complete(client, BEAM | settings).choices
        assert choice.token_ids == list(expected.token_ids)
        assert choice.finish_reason == ("stop" if expected.finished else "length")
        assert choice.safety["mode"] == "safebeam"


def test_endpoint_safebeam_avoids_tokens_before_tag(client: OpenAI) -> None:
    """The unguarded text contains f and w, after which the tag is likely."""
    [plain] = complete(client, {"mode": "mask"}, temperature=0).choices
    [safe] = complete(client, BEAM).choices
    assert plain.text == LETTERS[3:]
    assert "f" not in safe.text
    assert "w" not in safe.text
    assert safe.safety["p_tag"] < 0.01 < plain.safety["p_tag"]


def test_endpoint_safebeam_returns_best_beams_for_n(
    client: OpenAI, oracle: Any, tokenizer: Any, ids: Any
) -> None:
    expected = run_search(oracle, tokenizer, Search(SearchSettings(**ids))).hypotheses()
    choices = complete(client, BEAM, n=4, temperature=1).choices
    assert [c.token_ids for c in choices] == [list(h.token_ids) for h in expected]
    assert len({c.text for c in choices}) == 4


@pytest.mark.parametrize("safety", [BEAM, {"mode": "sample"}])
def test_endpoint_search_stream_matches_full_answer(client: OpenAI, safety: Any) -> None:
    settings: Any = {"prompt": "gh", "seed": 3, "logprobs": 1}
    [whole] = complete(client, safety, **settings).choices
    events = [e.choices[0] for e in complete(client, safety, **settings, stream=True)]
    assert "".join(e.text for e in events) == whole.text
    assert len([e for e in events if e.text]) > 3, "not streamed"
    tokens = list(itertools.chain(*(e.logprobs.tokens for e in events if e.logprobs)))
    assert tokens == whole.logprobs.tokens
    p_tags = list(itertools.chain(*(e.safety["p_tags"] for e in events)))
    assert p_tags == whole.safety["p_tags"]
    assert len(p_tags) == len(tokens)
    last = events[-1]
    assert last.finish_reason == whole.finish_reason
    assert last.safety["p_tag"] == whole.safety["p_tag"] == max(p_tags)
    assert last.safety["p_tag_mean"] == pytest.approx(sum(p_tags) / len(p_tags))
    assert last.safety["prompt_p_tag"] == p_tags[0]


def test_endpoint_safebeam_logprobs_match_transformers(
    client: OpenAI, oracle: Any, tokenizer: Any, ids: Any
) -> None:
    best = run_search(oracle, tokenizer, Search(SearchSettings(**ids))).ranked()[0]
    [choice] = complete(client, BEAM, logprobs=2).choices
    assert sum(choice.logprobs.token_logprobs) == pytest.approx(best.log_prob, abs=0.05)
    text = torch.tensor([encode(tokenizer, [PROMPT])[0] + list(best.token_ids)])
    with torch.no_grad():
        p_tags = oracle(text).logits[0, 2:-1].float().softmax(-1)[:, ids["tag_id"]]
    assert choice.safety["p_tags"] == pytest.approx(p_tags.tolist(), abs=0.005)
    assert all(len(top) in (2, 3) for top in choice.logprobs.top_logprobs)


def test_endpoint_sample_matches_transformers(client: OpenAI, oracle: Any, tokenizer: Any, ids: Any) -> None:
    choices = complete(client, {"mode": "sample", "num_candidates": 6}, n=3, seed=5, temperature=2.0).choices
    for index, choice in enumerate(choices):
        settings = SampleSettings(**ids, num_candidates=6, temperature=2.0, seed=5 + index)
        expected = run_search(oracle, tokenizer, SampleSearch(settings)).hypotheses()[0]
        assert choice.token_ids == list(expected.token_ids)
    assert len({choice.text for choice in choices}) > 1
    free = [
        complete(client, {"mode": "sample", "num_candidates": 6}, temperature=2.0).choices[0].text
        for _ in "123"
    ]
    assert len(set(free)) > 1, "without a seed, answers differ"


def test_endpoint_safebeam_explain_reports_dropped(
    client: OpenAI, oracle: Any, tokenizer: Any, ids: Any
) -> None:
    [choice] = complete(client, BEAM | {"explain": True}).choices
    dropped = choice.safety["dropped"]
    assert all(entry["p_tag"] >= entry["kept_p_tag"] for entry in dropped)
    first = next(entry for entry in dropped if entry["text"].endswith("f"))
    assert first["p_tag"] == pytest.approx(0.2, rel=0.05)
    assert first["step"] == len(first["text"])
    events = [e.choices[0] for e in complete(client, BEAM | {"explain": True}, stream=True)]
    assert [entry for e in events for entry in e.safety["dropped"]] == dropped
    assert not hasattr(complete(client, BEAM).choices[0].safety, "dropped")


def test_endpoint_safebeam_ends_at_stop_string(client: OpenAI) -> None:
    [whole] = complete(client, BEAM).choices
    stop = whole.text[4:6]
    end = whole.text.index(stop)
    [choice] = complete(client, BEAM, stop=[stop]).choices
    assert (choice.text, choice.finish_reason) == (whole.text[:end], "stop")
    events = [e.choices[0] for e in complete(client, BEAM, stop=[stop], stream=True)]
    assert "".join(e.text for e in events) == whole.text[:end]


def test_endpoint_safebeam_reports_finish_reason(client: OpenAI) -> None:
    [ended] = complete(
        client, BEAM | {"beam_size": 1, "num_candidates": 2, "drop_share": 0}, prompt="xy"
    ).choices
    assert (ended.text, ended.finish_reason) == ("z", "stop")
    answer = complete(client, BEAM, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    likeliest: Any = {"safety": BEAM | {"drop_share": 0}}  # the alphabet, which does not end before z
    longest = client.completions.create(
        model=MODEL, prompt="a" * (POSITIONS - 12), max_tokens=11, extra_body=likeliest
    )
    assert longest.usage.completion_tokens == 11


def test_endpoint_safebeam_chat_stream_matches_full_answer(client: OpenAI) -> None:
    settings: Any = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12}
    body = {"safety": BEAM}
    whole = client.chat.completions.create(**settings, extra_body=body, logprobs=True).choices[0]
    assert "f" not in whole.message.content
    assert len(whole.safety["p_tags"]) == len(whole.logprobs.content) > 5
    events = [
        e.choices[0]
        for e in client.chat.completions.create(**settings, extra_body=body, logprobs=True, stream=True)
    ]
    assert "".join(e.delta.content or "" for e in events) == whole.message.content
    p_tags = list(itertools.chain(*(e.safety["p_tags"] for e in events if hasattr(e, "safety"))))
    assert p_tags == whole.safety["p_tags"]


@pytest.mark.parametrize("mode", ["mask", "stop", "safebeam", "sample"])
@pytest.mark.parametrize("stream", [False, True])
def test_endpoint_refuses_prompt_above_prompt_threshold(client: OpenAI, mode: str, stream: bool) -> None:
    def answer(prompt: str, threshold: float) -> tuple[str, str, Any]:
        safety = {"mode": mode, "prompt_threshold": threshold}
        result = complete(client, safety, prompt=prompt, max_tokens=4, temperature=0, stream=stream)
        choices = [e.choices[0] for e in result] if stream else result.choices
        return "".join(c.text for c in choices), choices[-1].finish_reason, choices[-1].safety

    text, reason, report = answer("cdef", 0.15)  # after f the tag has 0.2
    assert (text, reason, report["stopped"]) == (REFUSAL, "content_filter", True)
    assert report["prompt_p_tag"] == pytest.approx(0.2, rel=0.02)
    text, reason, report = answer("cdef", 0.25)
    assert text
    assert (reason in ("length", "stop"), report["stopped"]) == (True, False)
    _, reason, report = answer("cde", 0.15)  # f may be generated: the threshold applies to the prompt only
    assert reason in ("length", "stop")
    assert not report["stopped"]


def test_endpoint_p_tags_and_client_logprobs_match_transformers(
    client: OpenAI, oracle: Any, tokenizer: Any, ids: Any
) -> None:
    for mode in ("off", "mask", "stop"):
        [choice] = complete(client, {"mode": mode}, logprobs=3, temperature=0, max_tokens=19).choices
        text = torch.tensor([encode(tokenizer, [PROMPT])[0] + choice.token_ids])
        with torch.no_grad():
            logs = oracle(text).logits[0, 2:-1].float().log_softmax(-1)
        assert choice.safety["p_tags"] == pytest.approx(logs[:, ids["tag_id"]].exp().tolist(), abs=0.005)
        for row, top in zip(logs, choice.logprobs.top_logprobs, strict=True):
            best = row.topk(3)
            expected = dict(
                zip(tokenizer.batch_decode(best.indices[:, None]), best.values.tolist(), strict=True)
            )
            assert top == pytest.approx(expected, abs=0.1)
    assert math.isclose(max(choice.safety["p_tags"]), choice.safety["p_tag"])
