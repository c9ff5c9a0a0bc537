"""Variants of Safe Beam Search, compared with the literal search of brute_force.py and with transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import test_hf
import torch
from brute_force import answers, brute_force
from hypothesis import given, settings
from hypothesis import strategies as st
from test_safebeam import EOS, TAG, Table, assert_same, search

from safety_ray.core.errors import UserError
from safety_ray.decode.hf import safe_beam_search
from safety_ray.decode.safebeam import Expansion, SearchSettings
from safety_ray.decode.variants import DROP_BY, EARLY_STOPPING
from safety_ray.decode.words import WordStarts, word_starts

NAMES = ["<tag>", "<end>", "Ġriver", "s", "Ċ", "▁bank", "oĠoÄł", "Ġ", "äº"]  # of the tokens of a Table
TEXTS = ["<tag>", "<end>", " river", "s", "\n", " bank", "o o?", " ", "?"]


class NamedTokens:
    """A tokenizer with the vocabulary NAMES."""

    def get_vocab(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(NAMES)}


def begins_word(previous: int, token: int) -> bool:
    """Whether a character of `token` that is no space follows a space; read from the text of both."""
    text, start = TEXTS[previous] + TEXTS[token], len(TEXTS[previous])
    return any(not text[i].isspace() and text[i - 1].isspace() for i in range(start, len(text)))


def test_word_starts_match_spelled_text() -> None:
    words = word_starts(NamedTokens())
    for previous in range(len(TEXTS)):
        for token in range(len(TEXTS)):
            assert words.begins_word(previous, token) == begins_word(previous, token), (previous, token)
    assert not words.begins_word(99, 99), "tokens of the model that the tokenizer does not have"
    assert not WordStarts().begins_word(2, 2)


def test_word_starts_read_byte_tokens_of_sentencepiece() -> None:
    class Bytes:
        def get_vocab(self) -> dict[str, int]:
            return {f"<0x{byte:02X}>": byte for byte in range(256)} | {"c": 256}

    words = word_starts(Bytes())
    assert words.begins_word(0x0A, 256)
    assert words.begins_word(0x0A, 0xC3), "the first byte of a letter"
    assert not words.begins_word(0xC3, 256)
    assert not words.begins_word(256, 0x0A)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(3, 9),
    levels=st.sampled_from([0, 0, 1, 2, 4]),
    k=st.integers(1, 4),
    n=st.integers(1, 6),
    length=st.integers(1, 5),
    share=st.sampled_from(["0", "0.25", "0.5", "0.5", "0.75", "0.99"]),
    penalty=st.sampled_from([0.0, 1.0, 0.6, -0.5]),
    ends=st.sampled_from([(), (EOS,), (EOS, 3)]),
    stride=st.sampled_from([1, 1, 2]),
    drop_by=st.sampled_from(list(DROP_BY)),
    threshold=st.sampled_from([0.0, 0.0, 0.05, 0.2, 1.0, 1.5]),
    early_stopping=st.sampled_from(list(EARLY_STOPPING)),
)
def test_search_variants_match_brute_force(
    seed: int,
    vocabulary: int,
    levels: int,
    k: int,
    n: int,
    length: int,
    share: str,
    penalty: float,
    ends: tuple[int, ...],
    stride: int,
    drop_by: str,
    threshold: float,
    early_stopping: str,
) -> None:
    table = Table(seed, vocabulary, levels)
    options = SearchSettings(
        tag_id=TAG,
        eos_ids=ends,
        beam_size=k,
        num_candidates=n,
        max_new_tokens=length,
        drop_share=float(share),
        length_penalty=penalty,
        stride=stride,
        drop_by=drop_by,
        drop_threshold=threshold,
        early_stopping=early_stopping,
        words=word_starts(NamedTokens()),
    )
    finished, live = brute_force(
        table.log_probs,
        tag=TAG,
        eos=frozenset(ends),
        k=k,
        n=n,
        length=length,
        share=share,
        stride=stride,
        drop_by=drop_by,
        threshold=threshold,
        early_stopping=early_stopping,
        length_penalty=penalty,
        begins_word=begins_word,
    )
    found = search(table.expand, options)
    assert_same(found, answers(finished, live, k, penalty))
    assert len(found) <= options.max_results()


def best_texts(rows: dict[tuple[int, ...], tuple[int, float]], **options: Any) -> list[tuple[int, ...]]:
    """Return the results of a search; `rows` has the most likely next token and P(tag) after a prefix."""

    def expand(prefixes: list[tuple[int, ...]]) -> list[Expansion]:
        expansions = []
        for prefix in prefixes:
            first, p_tag = rows.get(prefix, (4, 0.0))
            tokens = [first, *(token for token in (2, 5, 3) if token != first)]
            expansions.append(Expansion(tokens, [-1.0, -2.0, -3.0, -4.0][: len(tokens)], p_tag))
        return expansions

    options = {"beam_size": 1, "num_candidates": 2, "max_new_tokens": 1, **options}
    found = search(expand, SearchSettings(tag_id=TAG, eos_ids={EOS}, **options))
    return [h.token_ids for h in found]


def test_search_drop_by_word_ignores_p_tag_inside_word() -> None:
    """After " river" an "s" follows: its P(tag) of 0 is one inside a word, and that of the prompt counts."""
    rows = {(): (2, 0.2), (2,): (3, 0.0), (5,): (2, 0.1)}
    assert best_texts(rows) == [(2,)]
    assert best_texts(rows, drop_by="word", words=word_starts(NamedTokens())) == [(5,)]
    rows[2,] = (EOS, 0.05)  # the end of the text is the end of a word
    assert best_texts(rows, drop_by="word", words=word_starts(NamedTokens())) == [(2,)]


def test_search_drop_by_rise_compares_with_beams_mean() -> None:
    """0.9 is 1.8 times the mean of a beam with 0.1 and 0.9, and 9 times that of a beam with 0.1 and 0.1."""
    rows = {(): (2, 0.1), (2,): (2, 0.1), (5,): (2, 0.9)}
    rows |= {(2, 2): (2, 0.3), (2, 5): (2, 0.9), (5, 2): (2, 0.5), (5, 5): (2, 0.9)}
    options = {"beam_size": 2, "max_new_tokens": 2, "drop_share": 0.25}  # drops none of 2, then one of 4
    assert best_texts(rows, **options) == [(2, 2), (2, 5)]
    assert best_texts(rows, **options, drop_by="rise") == [(2, 2), (5, 2)]


def test_search_drop_threshold_leaves_safe_text_alone() -> None:
    rows = {(): (2, 0.0), (2,): (2, 0.04), (5,): (2, 0.01)}
    assert best_texts(rows) == [(5,)]
    assert best_texts(rows, drop_threshold=0.05) == [(2,)]
    assert best_texts(rows, drop_threshold=0.04) == [(5,)]
    assert best_texts(rows, drop_threshold=0.001, drop_share=0.99) == [(5,)], "one candidate remains"


@pytest.mark.parametrize("penalty", [1.0, -0.5])
@pytest.mark.parametrize(("ours", "theirs"), [("never", "never"), ("heuristic", False)])
def test_search_early_stopping_matches_transformers(ours: str, theirs: Any, penalty: float) -> None:
    """Both find the best text if every text has a beam."""
    for seed in range(3):
        model, prompt = test_hf.llama(seed, vocabulary=6), [1, 2]
        model.generation_config.eos_token_id = test_hf.EOS
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 2, dtype=torch.long),
            num_beams=40,
            max_new_tokens=3,
            length_penalty=penalty,
            early_stopping=theirs,
            suppress_tokens=[test_hf.TAG],
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        best, *_ = safe_beam_search(
            model,
            prompt,
            tag_id=test_hf.TAG,
            eos_id=test_hf.EOS,
            beam_size=40,
            num_candidates=5,
            max_new_tokens=3,
            drop_share=0.0,
            length_penalty=penalty,
            early_stopping=ours,
        )
        tokens = out.sequences[0, 2:].tolist()
        assert list(best.token_ids) == tokens[: len(best.token_ids)]
        score = best.log_prob / len(best.token_ids) ** penalty
        assert score == pytest.approx(out.sequences_scores[0].item(), abs=1e-4)


@pytest.mark.parametrize(
    ("early_stopping", "expected"),
    [("always", ((2, 2), False)), ("heuristic", ((2, 2, EOS), True)), ("never", ((2, 2, EOS), True))],
)
def test_search_early_stopping_waits_for_likelier_beam(early_stopping: str, expected: Any) -> None:
    """After two tokens, two texts of 0.1 and 0.03 have ended, and a live one has 0.54."""
    rows = {(): ([2, EOS], [0.6, 0.1]), (2,): ([2, EOS], [0.9, 0.05]), (2, 2): ([EOS, 2], [0.9, 0.05])}

    def expand(prefixes: list[tuple[int, ...]]) -> list[Expansion]:
        found = [rows.get(prefix, ([2, EOS], [0.01, 0.01])) for prefix in prefixes]
        return [Expansion(tokens, [math.log(p) for p in values], 0.0) for tokens, values in found]

    options = {"beam_size": 2, "num_candidates": 2, "max_new_tokens": 5, "drop_share": 0.0}
    chosen = SearchSettings(tag_id=TAG, eos_ids={EOS}, early_stopping=early_stopping, **options)
    first, *_ = search(expand, chosen)
    assert (first.token_ids, first.finished) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"drop_by": "letter"}, "drop_by=letter is unknown; choose from token, word, rise"),
        ({"drop_by": "word"}, "drop_by=word needs words=word_starts"),
        ({"drop_threshold": -0.1}, "drop_threshold=-0.1 must be at least 0"),
        ({"drop_threshold": math.nan}, "drop_threshold=nan"),
        ({"early_stopping": "soon"}, "early_stopping=soon is unknown; choose from always, heuristic, never"),
    ],
)
def test_search_settings_rejects_invalid_variants(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchSettings(tag_id=TAG, **wrong)
