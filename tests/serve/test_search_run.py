"""The answers of one search, with a table of probabilities in place of the engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from known_model import CHAT_END, CHAT_START, small_tokenizer
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.logprobs import FlatLogprobs, Logprob

from safety_ray.core.tag import TAG
from safety_ray.decode.safebeam import Beam, Search, SearchSettings
from safety_ray.decode.vllm_scheduler import SEARCH_ARG, expansion, make_search
from serve.options import SafetyOptions
from serve.report import SafetyReport
from serve.search_run import SearchRun

Table = dict[str, dict[str, float]]
"""P(next token | last token)."""
COMMON_START: Table = {"p": {"a": 0.99, "b": 0.01}, "a": {"c": 0.6, "d": 0.4}, "b": {"c": 0.6, "d": 0.4}}
SPECIAL: Table = {"p": {CHAT_START: 0.6, CHAT_END: 0.4}}


def answers(table: Table, n: int, max_tokens: int, stop: list[str], beam_size: int = 2) -> list[str]:
    """Return the texts of a search without dropped candidates, after the prompt p."""
    tokenizer = small_tokenizer(split_special_tokens=True)
    prompt, tag = tokenizer.convert_tokens_to_ids(["p", TAG])

    async def generate(prompt: Any, params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        """Run the search as the engine core does, and yield the rows of each step."""
        running = make_search(params.extra_args[SEARCH_ARG])
        while running.pending:
            rows, output = [], FlatLogprobs()
            for beam in running.pending:
                last = tokenizer.convert_ids_to_tokens([*prompt["prompt_token_ids"], *beam.token_ids][-1])
                row = table.get(last, {"y": 0.6, "z": 0.4})
                best = {tokenizer.convert_tokens_to_ids(token): math.log(p) for token, p in row.items()}
                rows.append(([tag, *best], [-9.0, *best.values()]))
                output.append({token: Logprob(value) for token, value in zip(*rows[-1], strict=True)})
            running.advance([expansion(*row, running.settings) for row in rows])
            finish_reason = None if running.pending else "stop"
            yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=output, finish_reason=finish_reason)])

    options = SafetyOptions("safebeam", beam_size=beam_size, num_candidates=2, drop_share=0.0)
    settings = SearchSettings(
        tag_id=tag, beam_size=beam_size, num_candidates=2, drop_share=0.0, max_new_tokens=max_tokens
    )
    params = SamplingParams(n=n, max_tokens=max_tokens, stop=stop)
    run = SearchRun(
        generate,
        tokenizer,
        {"prompt_token_ids": [prompt]},
        params,
        options,
        refusal="",
        on_step=lambda: None,
    )
    reports = [SafetyReport(options, False) for _ in range(n)]

    async def collect() -> list[str]:
        outputs = [output async for output in run.outputs([Search(settings)], reports, "id", "name")]
        return [choice.text for output in outputs for choice in output.outputs]

    return asyncio.run(collect())


def test_search_run_returns_different_answers() -> None:
    assert answers(COMMON_START, 2, 2, []) == ["ac", "ad"]
    assert answers(COMMON_START, 1, 2, ["a"]) == [""]
    assert answers(SPECIAL, 1, 1, []) == [""]
    assert answers(COMMON_START, 2, 2, [], beam_size=3) == ["ac", "ad"]


@pytest.mark.parametrize(
    ("table", "max_tokens", "stop"),
    [(COMMON_START, 2, ["a"]), (SPECIAL, 1, [])],
    ids=["common stop string", "special tokens"],
)
def test_search_run_refuses_equal_answers(table: Table, max_tokens: int, stop: list[str]) -> None:
    with pytest.raises(VLLMValidationError, match="has found 1 different answers, but n is 2"):
        answers(table, 2, max_tokens, stop)


def test_search_describes_the_end_of_dropped_candidates_only() -> None:
    """The whole text of each would let a report grow with the square of the answer."""
    run = object.__new__(SearchRun)
    run.tokenizer = small_tokenizer(split_special_tokens=True)
    ids = run.tokenizer.convert_tokens_to_ids(list("ab" * 50))
    dropped = [Beam(tuple(ids), -1.0, (0.5,)), Beam(tuple(ids[:3]), -1.0, (0.5,))]
    long, short = run._describe_dropped(SimpleNamespace(live=[], dropped=dropped))
    assert (long["text"], long["step"]) == ("ab" * 16, 100)
    assert short["text"] == "aba"
