"""vLLM's asynchronous mode, which CPUs do not have: modes mask and stop beside searches."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safety_ray.decode import hf
from safety_ray.decode.safebeam import Search, SearchSettings

TAG, EOS, VOCABULARY, TOKENS, THRESHOLD = 0, 1, 40, 20, 0.1
PROMPTS = [[5], [7, 8, 9, 2, 3, 11, 30], list(range(2, 40)), [4, 4]]


def random_model() -> Any:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, head_dim=32,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
        eos_token_id=EOS, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def greedy(model: Any, prompt: list[int], mode: str) -> list[int]:
    """Return the most likely tokens without the tag; in mode stop, the end where P(tag) reaches THRESHOLD."""
    tokens: list[int] = []
    while len(tokens) < TOKENS and EOS not in tokens:
        probs = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1].softmax(-1)
        stops = mode == "stop" and probs[TAG] >= THRESHOLD
        probs[TAG] = 0
        tokens.append(EOS if stops else int(probs.argmax()))
    return tokens


def search() -> Search:
    return Search(SearchSettings(tag_id=TAG, eos_ids=frozenset({EOS}), max_new_tokens=TOKENS))


def test_vllm_async_modes_and_searches_match_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    for key, value in (("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1")):
        monkeypatch.setitem(os.environ, key, value)
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    from safety_ray.decode.vllm_processor import PROCESSOR, engine_config
    from safety_ray.decode.vllm_scheduler import SCHEDULER
    from safety_ray.decode.vllm_search import drive

    model = random_model()
    model.save_pretrained(tmp_path)
    modes = ("mask", "stop")
    expected = {(n, mode): greedy(model, p, mode) for n, p in enumerate(PROMPTS) for mode in modes}
    stopped = [n for n in range(len(PROMPTS)) if expected[n, "stop"] != expected[n, "mask"]]
    assert stopped, "no prompt reaches the threshold, so the test would show nothing"
    beams = hf.run_searches(model, PROMPTS, [search() for _ in PROMPTS])

    async def scenario() -> None:
        arguments = AsyncEngineArgs(
            model=str(tmp_path), skip_tokenizer_init=True, dtype="float32", enforce_eager=True,
            max_model_len=128, max_num_seqs=64, scheduler_cls=SCHEDULER, logits_processors=[PROCESSOR],
            additional_config=engine_config(TAG), gpu_memory_utilization=0.3,
        )  # fmt: skip
        engine = AsyncLLM.from_engine_args(arguments)

        async def plain(n: int, mode: str) -> list[int]:
            params = SamplingParams(
                temperature=0.0, max_tokens=TOKENS, stop_token_ids=[EOS], detokenize=False,
                extra_args={"safety_mode": mode, "safety_threshold": THRESHOLD},
            )  # fmt: skip
            async for output in engine.generate({"prompt_token_ids": PROMPTS[n]}, params, f"{mode} {n}"):
                tokens = list(output.outputs[0].token_ids)
            return tokens

        async def searched(n: int) -> list[list[int]]:
            own = search()
            async for _ in drive(engine.generate, PROMPTS[n], own, f"search {n}"):
                pass
            return [hypothesis.token_ids for hypothesis in own.hypotheses()]

        try:
            answers, found = await asyncio.gather(
                asyncio.gather(*(plain(n, mode) for n, mode in expected)),
                asyncio.gather(*(searched(n) for n in range(len(PROMPTS)))),
            )
            assert answers == list(expected.values())
            assert found == [[hypothesis.token_ids for hypothesis in beam] for beam in beams]
            assert engine.output_processor.get_num_unfinished_requests() == 0
        finally:
            engine.shutdown()

    asyncio.run(scenario())
