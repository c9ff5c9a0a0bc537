"""Searches on a real vLLM engine, compared with the transformers backend on the same random model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safety_ray.decode import hf
from safety_ray.decode.safebeam import Hypothesis, Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.decode.words import WordStarts

pytestmark = pytest.mark.covers(
    "safety_ray.decode.vllm_search", "safety_ray.compat", "safety_ray.decode.safebeam"
)
TAG, EOS, VOCABULARY = 0, 1, 40
PROMPTS = [[5], [7, 8, 9, 2, 3, 11, 30], list(range(2, 40)), [4, 4]]
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_COMPILE_DISABLE": "1",
}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def engine_args(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    from safety_ray.compat.vllm_scheduler import SCHEDULER

    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    yield {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 128,
        "max_num_seqs": 64,
        "block_size": 32,
        "scheduler_cls": SCHEDULER,
    }
    os.environ.clear()
    os.environ.update(before)


def searches() -> list[Search]:
    common: dict[str, Any] = {"tag_id": TAG, "eos_ids": {EOS}, "max_new_tokens": 20}
    words = WordStarts(bytes(token % 2 for token in range(VOCABULARY)))  # odd tokens begin a word
    by_word: dict[str, Any] = {"drop_by": "word", "words": words, "early_stopping": "never"}
    return [
        Search(SearchSettings(**common)),
        Search(SearchSettings(**common, **by_word, beam_size=3, num_candidates=6, drop_share=0.25)),
        Search(SearchSettings(**common, drop_by="rise", beam_size=2, num_candidates=4, stride=3)),
        SampleSearch(SampleSettings(**common, num_candidates=5, temperature=0.8, top_p=0.9, seed=4)),
    ]


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.token_ids for h in ours] == [h.token_ids for h in theirs]
        assert [h.finished for h in ours] == [h.finished for h in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-3)
            assert a.p_tag == pytest.approx(b.p_tag, abs=1e-4)


def test_vllm_search_drive_matches_transformers_concurrently(engine_args: dict[str, Any], model: Any) -> None:
    """Also check that each search step is one engine step, and that a cancelled search leaves no requests."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from safety_ray.decode.vllm_search import drive

    expected = hf.run_searches(model, PROMPTS, searches())

    async def scenario() -> None:
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_args))
        try:
            engine_steps, output = 0, engine.engine_core.get_output_async

            async def counted() -> Any:
                nonlocal engine_steps
                answers = await output()
                engine_steps += bool(answers.outputs)
                return answers

            engine.engine_core.get_output_async = counted

            async def run(i: int, name: str) -> list[Hypothesis]:
                search = searches()[i]
                async for _ in drive(engine.generate, PROMPTS[i], search, name):
                    pass
                return search.hypotheses()

            assert_same(await asyncio.gather(*(run(i, f"together {i}") for i in range(4))), expected)
            for i in range(4):
                engine_steps = 0
                [found] = [await run(i, f"alone {i}")]
                assert_same([found], expected[i : i + 1])
                longest = max(len(h.token_ids) for h in found)
                assert engine_steps == longest + 1, "one step per token, and one for the prompt"

            search = searches()[0]
            async with aclosing(drive(engine.generate, PROMPTS[0], search, "left")) as steps:
                async for _ in steps:
                    break
            task = asyncio.create_task(run(0, "cancelled"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert engine.output_processor.get_num_unfinished_requests() == 0
            assert_same([await run(1, "after")], expected[1:2])
        finally:
            engine.shutdown()

    asyncio.run(scenario())


def test_vllm_search_run_searches_matches_transformers(engine_args: dict[str, Any], model: Any) -> None:
    from vllm import LLM

    from safety_ray.decode.vllm_search import run_searches

    llm = LLM(**engine_args)
    assert_same(run_searches(llm, PROMPTS, searches()), hf.run_searches(model, PROMPTS, searches()))
