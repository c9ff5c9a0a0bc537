"""P(tag) of whole texts, added up in vLLM's real scheduler and sent with the end of each text."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from simulated_engine import SimulatedEngine, log_probs, vllm_config
from vllm import SamplingParams
from vllm.v1.engine import FinishReason

from safety_ray.decode.p_tag_totals import take_totals
from safety_ray.decode.processor import LAST, REPORT_ARG, TagPolicy, report_column
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.vllm_search import search_params

TAG = 0  # as in SimulatedEngine
MODES: list[dict[str, Any]] = [{"depth": 1}, {"depth": 2}, {"depth": 2, "asynchronous": True}]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return vllm_config(tmp_path_factory.mktemp("llama"))


def reported(number: int, **settings: Any) -> SamplingParams:
    settings = {"temperature": 0, "ignore_eos": True, "extra_args": {REPORT_ARG: True}} | settings
    return SamplingParams(max_tokens=number, **settings)


def p_tags(prompt: list[int], tokens: list[int]) -> list[float]:
    """Return P(tag) at the position of each token, without an engine."""
    return [math.exp(log_probs([*prompt, *tokens[:i]])[TAG]) for i in range(len(tokens))]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_blocks", [18, 200])  # 18: requests are preempted
def test_scheduler_totals_match_model(config: Any, num_blocks: int, mode: dict[str, Any]) -> None:
    engine = SimulatedEngine(config, num_blocks, **mode)
    prompts = {f"r{i}": [3 + i, 4, 5][: 1 + i % 3] for i in range(4)}
    for i, (name, prompt) in enumerate(prompts.items()):
        engine.add(name, prompt, reported(9 + 9 * i))
    engine.add("silent", [5], reported(20, extra_args={}))
    engine.add("per token", [6], reported(9, logprobs=1))
    engine.add("search", [7, 8], search_params(Search(SearchSettings(tag_id=TAG, max_new_tokens=9))))
    engine.run()
    for name, prompt in prompts.items():
        *before, last = engine.received[name]
        assert {output.stop_reason for output in before} == {None}
        assert last.finish_reason == FinishReason.LENGTH
        stop_reason, totals = take_totals(last.stop_reason)
        expected = p_tags(prompt, engine.sampled(name))
        assert stop_reason is None
        assert totals is not None
        assert (totals.first, totals.highest) == pytest.approx((expected[0], max(expected)))
        assert totals.mean == pytest.approx(sum(expected) / len(expected))
    for name in ("silent", "per token", "search"):
        assert {output.stop_reason for output in engine.received[name]} == {None}
    assert not engine.scheduler._totals


def test_scheduler_totals_keep_token_that_ended_text(config: Any) -> None:
    engine = SimulatedEngine(config)
    [first, second] = [
        int(log_probs([3]).argmax()),
        int(log_probs([3, int(log_probs([3]).argmax())]).argmax()),
    ]
    assert first != second
    engine.add("stopped", [3], reported(9, stop_token_ids=[second]))
    engine.run()
    [_, last] = engine.received["stopped"]
    stop_reason, totals = take_totals(last.stop_reason)
    assert (last.finish_reason, stop_reason) == (FinishReason.STOP, second)
    assert totals is not None
    assert totals.highest == pytest.approx(max(p_tags([3], [first, second])))


def test_scheduler_forgets_totals_of_aborted_requests(config: Any) -> None:
    engine = SimulatedEngine(config)
    for name in ("a", "b"):
        engine.add(name, [3, 4], reported(20))
    engine.run(5)
    engine.abort("a")
    assert list(engine.scheduler._totals) == ["b"]
    engine.run()
    assert not engine.scheduler._totals


def test_sampler_returns_p_tag_without_log_probabilities() -> None:
    """test_processor.py has a batch in which other requests have log-probabilities."""
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.sampler import Sampler

    from safety_ray.decode.vllm_processor import TagProcessor, engine_config

    tag = 5
    config: Any = SimpleNamespace(additional_config=engine_config(tag))
    processor = TagProcessor(config, torch.device("cpu"), False)
    for row, column in enumerate([LAST, None, LAST]):
        processor.batch.add(row, TagPolicy("mask"), column=column)
    processor.batch.flush()
    logits = torch.randn(3, 17, generator=torch.Generator().manual_seed(1))
    penalties = torch.zeros(3)
    metadata = SamplingMetadata(
        None, True, False, None, None, {}, None, True, None, penalties, penalties, penalties, [[], [], []],
        None, {}, LogitsProcessors([processor]),
    )  # fmt: skip
    table = Sampler()(logits.clone(), metadata).logprobs_tensors
    assert table.logprobs.shape == table.logprob_token_ids.shape == (3, 1)
    assert len(table.selected_token_ranks) == 3
    torch.testing.assert_close(table.logprobs[[0, 2], 0], logits.log_softmax(-1)[[0, 2], tag])
    assert table.logprob_token_ids[[0, 2], 0].tolist() == [tag, tag]


def test_report_column_follows_log_probabilities() -> None:
    report = {REPORT_ARG: True}
    assert [report_column(report, n) for n in (None, 0, 3, -1)] == [LAST, None, 3, None]
    assert report_column({}, None) is report_column(None, 3) is None


def test_validate_params_refuses_totals_with_stop_strings() -> None:
    from vllm.exceptions import VLLMValidationError

    from safety_ray.decode.vllm_processor import TagProcessor

    TagProcessor.validate_params(reported(1, stop=["a"], logprobs=1))
    with pytest.raises(VLLMValidationError, match="safety_report with stop strings needs logprobs=1"):
        TagProcessor.validate_params(reported(1, stop=["a"]))
