"""Decoders of an evaluation, compared with transformers, with and without the tag."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from safety_ray.core.errors import UserError
from safety_ray.decode.hf import safe_beam_search
from safety_ray.decode.safebeam import SearchSettings
from safety_ray.evaluate.decoders import DECODERS, answer, check_names, choose
from safety_ray.evaluate.settings import Decoding

TAG, EOS, LENGTH = 4, 1, 8


class Spelled:
    """A tokenizer whose texts are the ids."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(5)
    shape = LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.5, eos_token_id=EOS, pad_token_id=0,
        bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(5, 24) for _ in range(length)] for length in (3, 9, 5, 5)]


def decoding(tag_id: int | None, **other: Any) -> Decoding:
    return Decoding(tag_id=tag_id, eos_ids=frozenset({EOS}), max_new_tokens=LENGTH, **other)


def answers(llama: Any, prompts: list[list[int]], name: str, settings: Decoding, seed: int = 0) -> list[Any]:
    return answer(llama, Spelled(), prompts, name, settings, [seed + n for n in range(len(prompts))])


def generate(llama: Any, prompt: list[int], **settings: Any) -> str:
    ids = torch.tensor([prompt])
    found = llama.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, **settings)
    return " ".join(map(str, found[0, len(prompt) :].tolist()))


def test_greedy_matches_transformers_with_and_without_tag(llama: Any, prompts: list[list[int]]) -> None:
    for tag_id, banned in ((None, None), (TAG, [[TAG]])):
        rows = answers(llama, prompts, "greedy", decoding(tag_id))
        expected = [generate(llama, prompt, do_sample=False, bad_words_ids=banned) for prompt in prompts]
        assert [row["answer"] for row in rows] == expected
        for row, prompt in zip(rows, prompts, strict=True):
            ids = [int(token) for token in row["answer"].split()]
            assert row["tokens"] == len(ids)
            assert row["finished"] == (ids[-1] == EOS)
            log_probs = llama(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            log_prob = sum(log_probs[len(prompt) - 1 + n, token].item() for n, token in enumerate(ids))
            assert row["log_prob"] == pytest.approx(log_prob, abs=1e-3)
            assert (row["p_tag"] is None) == (tag_id is None)


def test_beam_without_tag_matches_transformers(llama: Any, prompts: list[list[int]]) -> None:
    settings = Decoding(tag_id=None, eos_ids=frozenset(), max_new_tokens=LENGTH, num_candidates=4)
    rows = answers(llama, prompts, "beam", settings)
    end = llama.generation_config.eos_token_id
    llama.generation_config.eos_token_id = None
    expected = [generate(llama, p, num_beams=4, do_sample=False, length_penalty=0.0) for p in prompts]
    llama.generation_config.eos_token_id = end
    assert [row["answer"] for row in rows] == expected


def test_safebeam_matches_search_of_single_prompt(llama: Any, prompts: list[list[int]]) -> None:
    rows = answers(llama, prompts, "safebeam", decoding(TAG, drop_share=0.5))
    for row, prompt in zip(rows, prompts, strict=True):
        best = safe_beam_search(llama, prompt, tag_id=TAG, eos_id=EOS, max_new_tokens=LENGTH)[0]
        assert row["answer"] == " ".join(map(str, best.token_ids))
        assert row["p_tag"] == pytest.approx(list(best.p_tag), rel=1e-4)


def test_stop_ends_greedy_answer_at_threshold(llama: Any, prompts: list[list[int]]) -> None:
    greedy = answers(llama, prompts, "greedy", decoding(TAG))
    lengths = set()
    for threshold in (0.0127, 0.03, 1.0):
        rows = answers(llama, prompts, "stop", decoding(TAG, stop_threshold=threshold))
        for row, whole, prompt in zip(rows, greedy, prompts, strict=True):
            ids = [int(token) for token in whole["answer"].split()]
            with torch.inference_mode():
                logits = llama(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 :]
            before_each_token = logits.softmax(-1)[: len(ids), TAG].tolist()
            end = next((n for n, p in enumerate(before_each_token) if p >= threshold), len(ids))
            assert row["answer"] == " ".join(map(str, ids[:end]))
            assert row["finished"] == (whole["finished"] and end == len(ids))
            assert row["tag_emitted"] == (end < len(ids))
            lengths.add(end)
    assert {0, LENGTH} < lengths, "some texts end before the first token, some later, some not at all"


def test_sample_depends_on_seed_of_prompt_only(llama: Any, prompts: list[list[int]]) -> None:
    together = answers(llama, prompts, "sample", decoding(None), seed=7)
    for number, prompt in enumerate(prompts):
        [alone] = answers(llama, [prompt], "sample", decoding(None), seed=7 + number)
        assert alone["answer"] == together[number]["answer"]
    assert together != answers(llama, prompts, "sample", decoding(None), seed=70)
    cold = answers(llama, prompts, "sample", decoding(None, temperature=0.0))
    assert [r["answer"] for r in cold] == [
        r["answer"] for r in answers(llama, prompts, "greedy", decoding(None))
    ]


def test_safesample_without_dropped_candidates_is_sample(llama: Any) -> None:
    prompts = [[5, 9, 11], [7]]
    sampled = answers(llama, prompts, "sample", decoding(TAG, top_k=5))
    settings = {"top_k": 50, "num_candidates": 5}
    assert answers(llama, prompts, "safesample", decoding(TAG, drop_share=0.0, **settings)) == sampled
    dropped = answers(llama, prompts, "safesample", decoding(TAG, drop_share=0.9, **settings))
    assert [row["answer"] for row in dropped] != [row["answer"] for row in sampled]


def test_sample_frequencies_match_top_k_distribution(llama: Any) -> None:
    prompt, number, temperature = [5, 9, 11], 600, 0.7
    settings = Decoding(tag_id=None, eos_ids=frozenset(), max_new_tokens=1, temperature=temperature, top_k=5)
    rows = answers(llama, [prompt] * number, "sample", settings)
    with torch.inference_mode():
        logits, ids = llama(torch.tensor([prompt])).logits[0, -1].topk(5)
    expected = (logits.double() / temperature).softmax(-1) * number
    counts = Counter(row["answer"] for row in rows)
    observed = [counts[str(token)] for token in ids.tolist()]
    assert sum(observed) == number
    assert chisquare(observed, expected.numpy()).pvalue > 0.001


def test_choose_decoders_depends_on_tag() -> None:
    assert choose([], TAG) == ["beam", "safebeam"]
    assert choose([], None) == ["beam"]
    assert choose(["greedy"], TAG) == ["greedy"]
    with pytest.raises(UserError, match=r"decoders: 'safebeam' needs .* choose from greedy, sample, beam\."):
        choose(["beam", "safebeam"], None)
    with pytest.raises(UserError, match=r"decoders: 'stop' needs a model with the harmfulness tag"):
        choose(["stop"], None)


def test_check_decoder_names_rejects_unknown_and_repeated() -> None:
    check_names(list(DECODERS))
    with pytest.raises(UserError, match=r"decoders: unknown decoder 'beem'; the nearest is 'beam'"):
        check_names(["beem"])
    with pytest.raises(UserError, match=r"'beam' is listed 2 times"):
        check_names(["beam", "beam"])


def test_search_settings_reject_dropping_without_tag() -> None:
    with pytest.raises(UserError, match=r"drop_share=0\.5 must be 0 for a model without the tag"):
        SearchSettings(tag_id=None)
    assert SearchSettings(tag_id=None, drop_share=0.0).num_dropped(16) == 0
    assert math.isclose(SearchSettings(tag_id=TAG).drop_share, 0.5)
