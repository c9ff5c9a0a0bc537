"""The model behind this project's endpoint, as `evaluate` asks it, against the same model loaded here."""

from __future__ import annotations

from pathlib import Path

import pytest
from known_model import KEY, OTHER_KEY
from openai import OpenAI
from transformers import PreTrainedTokenizerFast

from safety_ray.core.errors import UserError
from safety_ray.core.tag import encode, tag_id
from safety_ray.evaluate import decoders
from safety_ray.evaluate.asking import ask
from safety_ray.evaluate.endpoint import Endpoint, EndpointConfig
from safety_ray.evaluate.model import end_ids, load
from safety_ray.evaluate.prompt_sets import HARMFUL, Prompt
from safety_ray.evaluate.settings import Decoding
from serve.app import ServeConfig


def test_endpoint_answers_like_model_that_is_loaded(
    client: OpenAI,
    config: ServeConfig,
    model: Path,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVALUATED_KEY", KEY)
    settings = EndpointConfig(
        url=f"http://127.0.0.1:{config.port}/v1", model=config.model_id, api_key_env="EVALUATED_KEY"
    )
    names = ["greedy", "beam", "safebeam", "stop"]
    endpoint = Endpoint(settings)
    assert endpoint.choose(names) == names
    prompts = [Prompt("mine", HARMFUL, text, text, text) for text in ("abc", "tu")]
    network, _ = load(str(model))
    decoding = Decoding(
        tag_id=tag_id(tokenizer), eos_ids=end_ids(network, tokenizer), max_new_tokens=8, stop_threshold=0.3
    )
    rows, refused = ask(endpoint, prompts, names, decoding, chat=False, seed=0, parts=str(tmp_path))
    assert refused == []
    answers = {(row["id"], row["decoder"]): row for row in rows}
    for name in names[:-1]:
        local = decoders.answer(
            network, tokenizer, encode(tokenizer, [p.text for p in prompts]), name, decoding, [0, 0]
        )
        assert [answers[prompt.text, name]["answer"] for prompt in prompts] == [r["answer"] for r in local]
    # P(tag) is 0.6 after w, and 0.2 after f.
    assert answers["abc", "stop"]["answer"] == "defghijk"
    assert answers["tu", "stop"]["answer"].startswith("vw")
    assert not answers["tu", "stop"]["answer"].startswith("vwx")
    stopped = {key for key, row in answers.items() if row["tag_emitted"]}
    assert stopped == {("tu", "stop")}
    monkeypatch.setenv("EVALUATED_KEY", f"{OTHER_KEY}-wrong")
    with pytest.raises(UserError, match="refuses the key in EVALUATED_KEY"):
        Endpoint(settings)
