"""Searches in vLLM's real scheduler, with a worker whose KV cache holds the tokens."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from simulated_engine import LENGTH, VOCABULARY, SimulatedEngine, log_probs, vllm_config
from vllm import SamplingParams
from vllm.v1.engine import FinishReason
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, MambaSpec
from vllm.v1.request import RequestStatus

from safety_ray.compat.vllm_limits import reason_against_trees
from safety_ray.core.errors import UserError
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.decode.vllm_scheduler import SEARCH_ARG, describe_search, expansion, make_search
from safety_ray.decode.vllm_search import run_searches, search_params
from safety_ray.decode.words import WordStarts

TAG, EOS = 0, 1
MODES: list[dict[str, Any]] = [{"depth": 1}, {"depth": 2}, {"depth": 2, "asynchronous": True}]
COMMON: dict[str, Any] = {"tag_id": TAG, "eos_ids": {EOS}, "max_new_tokens": 14}
MAMBA = MambaSpec(block_size=4, shapes=((2,),), dtypes=(torch.float32,))
WORDS = WordStarts(bytes(token % 2 for token in range(VOCABULARY)))  # odd tokens begin a word


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return vllm_config(tmp_path_factory.mktemp("llama"))


def searches() -> list[Search]:
    return [
        Search(SearchSettings(**COMMON)),
        Search(SearchSettings(**COMMON, beam_size=3, num_candidates=6, drop_share=0.25)),
        Search(SearchSettings(**COMMON, beam_size=2, num_candidates=4, stride=3)),
        SampleSearch(SampleSettings(**COMMON, num_candidates=5, temperature=0.8, top_p=0.9, seed=4)),
        Search(SearchSettings(**COMMON, drop_by="word", words=WORDS, early_stopping="never")),
    ]


def prompts() -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(2, VOCABULARY) for _ in range(length)] for length in (1, 7, 8, 23, 5)]


def run_alone(prompt: list[int], search: Search, window: int) -> list[Any]:
    """Return the rows of a search without an engine; `search` then holds its result."""
    rows = []
    while search.pending:
        tables = [log_probs([*prompt, *beam.token_ids][-window:]) for beam in search.pending]
        width = search.settings.num_candidates + 1
        orders = [sorted(range(VOCABULARY), key=lambda t, table=table: (-table[t], t)) for table in tables]
        pairs = [
            ([TAG, *o[:width]], [t[TAG], *(t[i] for i in o[:width])])
            for o, t in zip(orders, tables, strict=True)
        ]
        rows += [ids for ids, _ in pairs]
        search.advance([expansion(ids, [float(v) for v in values], search.settings) for ids, values in pairs])
    return rows


def greedy(prompt: list[int], number: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(number):
        tokens.append(int(log_probs(tokens).argmax()))
    return tokens[len(prompt) :]


def start(engine: SimulatedEngine, numbers: range = range(5)) -> None:
    for i in numbers:
        engine.add(f"search {i}", prompts()[i], search_params(searches()[i]))


def assert_exact(engine: SimulatedEngine, numbers: range = range(5)) -> None:
    for i in numbers:
        expected = run_alone(prompts()[i], searches()[i], max(engine.windows))
        assert engine.table(f"search {i}").logprob_token_ids.tolist() == expected
        assert [o.finish_reason for o in engine.received[f"search {i}"] if o.finished] == [FinishReason.STOP]


def assert_empty(engine: SimulatedEngine) -> None:
    scheduler = engine.scheduler
    assert not {**scheduler._trees, **scheduler._rows, **scheduler._holders, **scheduler.requests}
    assert engine.num_free() == engine.free_at_start


def test_search_scheduler_computes_one_token_per_row(config: Any) -> None:
    engine = SimulatedEngine(config)
    start(engine)
    engine.run()
    assert_exact(engine)
    first = {name: number for name, number in engine.computed.items() if name.endswith("/0/0")}
    assert list(first.values()) == [len(prompt) for prompt in prompts()]
    assert {number for name, number in engine.computed.items() if name not in first} == {1}
    assert len(engine.computed) > 300
    assert_empty(engine)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_blocks", [18, 40])
def test_search_scheduler_is_exact_with_little_memory(
    config: Any, num_blocks: int, mode: dict[str, Any]
) -> None:
    engine = SimulatedEngine(config, num_blocks, **mode)
    plain = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    engine.add("plain", [3, 4], plain)
    start(engine)
    engine.add("also plain", [5], plain)
    engine.run()
    assert_exact(engine)
    assert engine.sampled("plain") == greedy([3, 4], 30)
    assert engine.sampled("also plain") == greedy([5], 30)
    assert max(number for name, number in engine.computed.items() if not name.endswith("/0/0")) > 1, (
        "no row was computed without its parent's blocks, so the test would show nothing"
    )
    assert_empty(engine)


@pytest.mark.parametrize("windows", [(6,), (None, 6)])
@pytest.mark.parametrize("num_blocks", [40, 400])
def test_search_scheduler_is_exact_with_sliding_windows(
    config: Any, windows: tuple[int | None, ...], num_blocks: int
) -> None:
    engine = SimulatedEngine(config, num_blocks, depth=2, windows=windows)
    start(engine)
    engine.run()
    assert_exact(engine)
    assert_empty(engine)


def test_search_scheduler_has_two_batches_for_two_searches(config: Any) -> None:
    plain = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    for numbers, batches in ((range(0), 1), (range(1), 1), (range(2), 2), (range(5), 2)):
        engine = SimulatedEngine(config, depth=2)
        engine.add("plain", [3, 4], plain)
        start(engine, numbers)
        engine.run()
        assert engine.most_batches == batches
        assert engine.sleeps == 0
        assert engine.sampled("plain") == greedy([3, 4], 30)
        assert_exact(engine, numbers)
        assert_empty(engine)


def test_search_scheduler_is_exact_with_few_rows_per_step(tmp_path: Any) -> None:
    engine = SimulatedEngine(vllm_config(tmp_path, max_num_seqs=3, max_num_batched_tokens=8), num_blocks=60)
    start(engine)
    engine.run()
    assert_exact(engine)
    assert_empty(engine)


@pytest.mark.parametrize("mode", MODES)
def test_search_scheduler_abort_leaves_neighbours_exact(config: Any, mode: dict[str, Any]) -> None:
    for steps in (0, 1, 2, 5, 9):
        engine = SimulatedEngine(config, **mode)
        start(engine)
        engine.run(steps)
        engine.abort("search 1", "search 3")
        engine.run(1)
        engine.scheduler.reset_prefix_cache()
        engine.run()
        assert_exact(engine, range(0, 4, 2))
        assert_empty(engine)
    start(engine)
    engine.run(4)
    aborted = engine.scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)
    assert sorted(request.request_id for request in aborted) == [f"search {i}" for i in range(5)]
    engine.run()
    assert_empty(engine)


def test_search_scheduler_reset_gives_up_held_blocks(config: Any) -> None:
    engine = SimulatedEngine(config)
    start(engine)
    engine.run(5)
    assert engine.scheduler._holders
    assert engine.scheduler.reset_prefix_cache()
    engine.run()
    assert_exact(engine)
    assert_empty(engine)


def test_search_scheduler_sends_no_descriptions_to_the_worker(config: Any) -> None:
    engine = SimulatedEngine(config)
    start(engine, range(4, 5))  # its description has a table of the vocabulary
    engine.run(3)
    assert {tuple(params.extra_args or ()) for params in engine.params.values()} == {("safety_mode",)}


def odd_requests() -> list[tuple[Any, str]]:
    good = describe_search(Search(SearchSettings(**COMMON)))
    settings = good["settings"]
    return [
        *(
            (value, "must be an object with the keys")
            for value in (5, "a", [], ["a", 2], {}, {"name": "beam"})
        ),
        ({**good, "name": "kill"}, "unknown search 'kill'; choose from beam, sample"),
        ({**good, "name": ["beam"]}, "unknown search"),
        ({**good, "settings": 5}, "invalid settings"),
        ({**good, "settings": {**settings, "eos_ids": 5}}, "invalid settings"),
        ({**good, "settings": {**settings, "eos_ids": [[]]}}, "invalid settings"),
        ({**good, "settings": {**settings, "beam_size": "a"}}, "invalid settings"),
        ({**good, "settings": {**settings, "beam_size": 0}}, "must be at least 1"),
        ({**good, "settings": {**settings, "more": 1}}, "invalid settings"),
        ({**good, "settings": {**settings, "tag_id": 3}}, "do not belong to the search"),
        ({**good, "settings": {**settings, "num_candidates": 9}}, "do not belong to the search"),
        ({**good, "settings": {**settings, "max_new_tokens": LENGTH}}, "must be at most 62"),
    ]


def test_search_scheduler_refuses_odd_requests(config: Any) -> None:
    engine = SimulatedEngine(config)
    start(engine)
    for number, (values, message) in enumerate(odd_requests()):
        engine.run(2)
        params = search_params(Search(SearchSettings(**COMMON)))
        params.extra_args = {SEARCH_ARG: values}
        engine.add(f"odd {number}", [3], params)
        engine.run(2)
        [refused] = engine.received[f"odd {number}"]
        assert refused.finish_reason == FinishReason.ERROR
        assert message in refused.stop_reason
    engine.run()
    assert_exact(engine)
    assert_empty(engine)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"connector": object()}, "KV or encoder cache connector; leave out kv_transfer_config"),
    ({"vllm_config": SimpleNamespace(speculative_config=object())}, "leave out speculative_config"),
    ({"parallel_config": SimpleNamespace(data_parallel_size=2)}, "set data_parallel_size=1"),
    ({"is_encoder_decoder": True}, "use a decoder-only model"),
    (
        {"kv_cache_config": KVCacheConfig(8, [], [KVCacheGroupSpec(["layer"], MAMBA)])},
        "full attention or sliding windows only",
    ),
]


@pytest.mark.parametrize(("attributes", "reason"), REFUSED, ids=[r[1] for r in REFUSED])
def test_reason_against_trees_names_the_cause(config: Any, attributes: dict[str, Any], reason: str) -> None:
    scheduler = SimulatedEngine(config).scheduler
    assert not reason_against_trees(scheduler)
    for name, value in attributes.items():
        setattr(scheduler, name, value)
    assert reason in reason_against_trees(scheduler)


def test_search_scheduler_refuses_searches_only(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.parallel_config, "data_parallel_size", 2)
    engine = SimulatedEngine(config, depth=2)
    start(engine)
    engine.add("plain", [3, 4], SamplingParams(max_tokens=30, temperature=0, ignore_eos=True))
    engine.run()
    assert engine.sampled("plain") == greedy([3, 4], 30)
    assert engine.most_batches == 1
    for i in range(5):
        [refused] = engine.received[f"search {i}"]
        assert refused.finish_reason == FinishReason.ERROR
        assert "set data_parallel_size=1" in refused.stop_reason
    assert_empty(engine)


def test_search_scheduler_error_ends_one_search_only(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimulatedEngine(config)
    start(engine)
    engine.run(3)

    def fail(rows: Any) -> None:
        raise ValueError("this search fails.")

    monkeypatch.setattr(engine.scheduler._trees["search 2"].tree.search, "advance", fail)
    engine.run()
    last = engine.received["search 2"][-1]
    assert (last.finish_reason, last.stop_reason) == (FinishReason.ERROR, "ValueError: this search fails.")
    for i in (0, 1, 3):
        assert_exact(engine, range(i, i + 1))
    assert_empty(engine)


def test_search_scheduler_lets_new_requests_in_between_rows(tmp_path: Path) -> None:
    engine = SimulatedEngine(vllm_config(tmp_path, max_num_seqs=8))  # less than the rows of one search
    start(engine)
    engine.run(12)
    engine.add("late", [3, 4], SamplingParams(max_tokens=1, temperature=0, ignore_eos=True))
    engine.run(12)
    assert engine.sampled("late") == greedy([3, 4], 1)
    assert not any(o.finished for i in range(5) for o in engine.received[f"search {i}"])
    engine.run()
    assert_exact(engine)
    assert_empty(engine)


def test_run_searches_checks_all_lengths_before_it_starts() -> None:
    llm: Any = SimpleNamespace(model_config=SimpleNamespace(max_model_len=LENGTH))  # cannot generate
    pair = [Search(SearchSettings(**COMMON)), Search(SearchSettings(**COMMON))]
    with pytest.raises(UserError, match="prompt 1 has 50 tokens, so max_new_tokens=14 must be at most 13"):
        run_searches(llm, [[2] * 49, [2] * 50], pair)
    with pytest.raises(UserError, match="the prompt has 63 tokens and must have at most 62"):
        run_searches(llm, [[2] * 63], pair[:1])


def test_describe_search_round_trip_and_unknown_class() -> None:
    for search in searches():
        again = make_search(describe_search(search))
        assert type(again) is type(search)
        assert again.settings == search.settings

    class OtherSearch(Search):
        pass

    with pytest.raises(UserError, match="OtherSearch is not in SEARCHES"):
        describe_search(OtherSearch(SearchSettings(**COMMON)))
