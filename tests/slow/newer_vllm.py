"""Safety modes, P(tag) and searches on a newer vLLM, compared with transformers on the same random model.

`test_vllm_versions.py` runs this file in an environment with that vLLM, once for each of its model runners.
"""

from __future__ import annotations

import inspect
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams

from safety_ray.compat.vllm_runners import SlotLogitsProcessor, describe_runner
from safety_ray.core.errors import UserError
from safety_ray.decode import hf
from safety_ray.decode.safebeam import Search, SearchSettings
from safety_ray.decode.safesample import SampleSearch, SampleSettings
from safety_ray.decode.vllm_processor import PROCESSOR, TagProcessor, engine_config
from safety_ray.decode.vllm_prompt_tags import prompt_p_tags
from safety_ray.decode.vllm_scheduler import BLOCK_COPIES, SCHEDULER
from safety_ray.decode.vllm_search import run_searches

RUNNER = os.environ["RUNNER"]  # V1 or V2
TAG, EOS, VOCABULARY, TOKENS, THRESHOLD = 0, 1, 40, 8, 0.1
PROMPTS = [[5], [7, 8, 9, 2, 3, 11, 30], list(range(2, 40)), [30, 32, 26, 15, 8, 33, 3, 26, 29]]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, head_dim=32,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
        eos_token_id=EOS, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[TAG] *= 2  # so that three of the prompts have another text in each mode
    return model


@pytest.fixture(scope="module")
def llm(model: Any, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return LLM(
        str(folder), skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=64,
        max_num_seqs=16, block_size=32, scheduler_cls=SCHEDULER, worker_extension_cls=BLOCK_COPIES,
        logits_processors=[PROCESSOR], additional_config=engine_config(TAG),
    )  # fmt: skip


def generate(llm: LLM, prompts: list[list[int]], **params: Any) -> list[Any]:
    sampling = SamplingParams(
        temperature=0, max_tokens=TOKENS, stop_token_ids=[EOS], detokenize=False, **params
    )
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
    return [output.outputs[0] for output in outputs]


@torch.no_grad()
def greedy(
    model: Any, prompt: list[int], mode: str, first: float = math.inf, penalty: float = 0
) -> tuple[list[int], list[float]]:
    """Return the most likely tokens of a mode, and P(tag) at each."""
    tokens: list[int] = []
    p_tags: list[float] = []
    while len(tokens) < TOKENS and EOS not in tokens:
        logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1]
        p_tags.append(float(logits.softmax(-1)[TAG]))
        threshold = min(THRESHOLD if mode == "stop" else math.inf, math.inf if tokens else first)
        for token in set(tokens):
            logits[token] -= penalty
        if mode != "off":
            logits[TAG] = -math.inf
        tokens.append(EOS if p_tags[-1] >= threshold else int(logits.argmax()))
    return tokens, p_tags


def test_runner_is_the_one_under_test(llm: LLM) -> None:
    assert describe_runner(llm.llm_engine.vllm_config).endswith(f"with model runner {RUNNER}")


@pytest.mark.parametrize("penalty", [0.0, 1.5])
@pytest.mark.parametrize(("mode", "first"), [("off", 1.0), ("mask", 1.0), ("mask", 0.02), ("stop", 1.0)])
def test_modes_match_transformers(llm: LLM, model: Any, mode: str, first: float, penalty: float) -> None:
    extra = {"safety_mode": mode, "safety_threshold": THRESHOLD, "safety_prompt_threshold": first}
    found = generate(llm, PROMPTS, presence_penalty=penalty, extra_args=extra)
    expected = [greedy(model, p, mode, first if first < 1 else math.inf, penalty)[0] for p in PROMPTS]
    assert [output.token_ids for output in found] == expected
    assert len({tuple(greedy(model, p, m)[0]) for p in PROMPTS for m in ("off", "mask", "stop")}) == 10


@pytest.mark.parametrize("mode", ["off", "mask"])
def test_reports_match_transformers(llm: LLM, model: Any, mode: str) -> None:
    extra = {"safety_mode": mode, "safety_report": True}
    for prompt, output in zip(PROMPTS, generate(llm, PROMPTS, logprobs=2, extra_args=extra), strict=True):
        reported = [math.exp(step[TAG].logprob) for step in output.logprobs]
        assert reported == pytest.approx(greedy(model, prompt, mode)[1], rel=1e-4)


def test_requests_of_all_modes_share_a_batch(llm: LLM, model: Any) -> None:
    modes = ["off", "mask", "stop"] * 4
    common: dict[str, Any] = {"temperature": 0, "max_tokens": TOKENS, "stop_token_ids": [EOS]}
    params = [
        SamplingParams(
            **common, detokenize=False, extra_args={"safety_mode": mode, "safety_threshold": THRESHOLD}
        )
        for mode in modes
    ]
    prompts = [PROMPTS[n // 3] for n in range(len(modes))]
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    expected = [greedy(model, prompt, mode)[0] for prompt, mode in zip(prompts, modes, strict=True)]
    assert [output.outputs[0].token_ids for output in outputs] == expected


def test_prompt_p_tags_match_transformers(llm: LLM, model: Any) -> None:
    if RUNNER == "V1":
        with pytest.raises(
            UserError, match=r"needs vLLM 0\.32 with model runner V2 .*, not vLLM .* runner V1"
        ):
            prompt_p_tags(llm, PROMPTS, TAG)
        return
    for prompt, found in zip(PROMPTS, prompt_p_tags(llm, PROMPTS, TAG), strict=True):
        with torch.no_grad():
            exact = model(input_ids=torch.tensor([prompt])).logits[0].softmax(-1)[:, TAG]
        np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_searches_match_transformers(llm: LLM, model: Any) -> None:
    def searches() -> list[Search]:
        length = 10 if RUNNER == "V1" else 3  # kernels in Triton's interpreter take seconds for a step
        common: dict[str, Any] = {"tag_id": TAG, "eos_ids": {EOS}, "max_new_tokens": length}
        return [
            Search(SearchSettings(**common)),
            Search(SearchSettings(**common, beam_size=3, num_candidates=5, drop_share=0.25)),
            Search(SearchSettings(**common, beam_size=2, num_candidates=4, stride=3)),
            SampleSearch(SampleSettings(**common, num_candidates=5, temperature=0.8, top_p=0.9, seed=4)),
        ]

    found = run_searches(llm, PROMPTS, searches())
    for ours, theirs in zip(found, hf.run_searches(model, PROMPTS, searches()), strict=True):
        assert [h.token_ids for h in ours] == [h.token_ids for h in theirs]
        for mine, reference in zip(ours, theirs, strict=True):
            assert mine.p_tag == pytest.approx(reference.p_tag, abs=1e-4)


@pytest.mark.skipif(RUNNER == "V1", reason="speculative decoding in V1 is refused by vLLM itself")
def test_processor_refuses_speculative_decoding() -> None:
    config: Any = SimpleNamespace(additional_config=engine_config(TAG), speculative_config=object())
    with pytest.raises(ValueError, match="do not support speculative decoding"):
        TagProcessor(config, SimpleNamespace(max_num_reqs=4, device=torch.device("cpu")))


def test_private_parts_of_runner_v2_exist() -> None:
    """Canaries of safety_ray/compat/vllm_runners.py and vllm_block_copies.py."""
    from vllm.v1.worker.gpu.sample import sampler
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

    assert SlotLogitsProcessor.__module__.startswith("vllm.")
    assert list(inspect.signature(sampler.Sampler.__call__).parameters) == ["self", "logits", "input_batch"]
    source = inspect.getsource(sampler.Sampler)
    assert "logprobs_tensors=logprobs_tensors" in source
    assert "compute_topk_scores(\n                logits," in source, "log-probabilities of unchanged logits"
    assert {"expanded_idx_mapping", "idx_mapping_np", "pos"} <= set(LogitsContext.__annotations__)
    names = {"device", "max_num_reqs", "prompt_len"}
    assert names <= set(LogitsProcRequestState.__annotations__)
    runner = Path(sampler.__file__).parents[1] / "model_runner.py"
    assert "from vllm.v1.worker.utils import" in runner.read_text()
    assert "copy_kv_cache_blocks_inplace(" in runner.read_text()
