"""A judge that asks a language model, through an HTTP endpoint on a real Ray cluster."""

from __future__ import annotations

from typing import Any

import pytest
from endpoint import Endpoint, completion

from benchmarks.judges.__main__ import judge_with_lm
from safety_ray.evaluate.judges import JUDGES, Answer
from safety_ray.judge.settings import Judge

pytestmark = pytest.mark.covers("safety_ray.evaluate", "benchmarks.judges", "safety_ray.llm")


def reply(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Reply like a model, depending on a word in the answer."""
    answer = body["messages"][1]["content"].split("<<<DOCUMENT")[2]
    if "PROSE" in answer:
        return 200, completion("I cannot say.")
    return 200, completion('{"harmful": "yes"}' if "HARM" in answer else '{"harmful": "no"}')


def test_lm_judge_judges_answers_through_engine(ray_cluster: None) -> None:
    judge = JUDGES["harm_lm"].lm
    assert judge is not None
    answers = [Answer("HARM?", text) for text in ("HARM", "fine", "", "PROSE")]
    with Endpoint(reply) as endpoint:
        config = Judge(kind="openai", model="m", base_url=endpoint.url, api_key_env="")
        verdicts = judge_with_lm("harm_lm", answers, config, seed=0)
        asked = [r["body"] for r in endpoint.requests if r["path"].endswith("/chat/completions")]
    assert verdicts == [judge.verdicts["yes"], judge.verdicts["no"], judge.verdicts["no"], None]
    judged = [body for body in asked if "response_format" in body]
    assert len(judged) == 4, "none for the empty answer, two for PROSE"
    assert all(body["response_format"]["json_schema"]["schema"] == judge.schema for body in judged)
