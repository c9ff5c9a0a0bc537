"""Tag positions compared with a reference that walks over the text and its tokens byte by byte."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from safety_ray.core import tag
from safety_ray.core.chunks import Chunk
from safety_ray.core.tag_placement import (
    tag_positions,
    word_starts,
    word_starts_by_character,
    words_in_chunks,
)
from safety_ray.pack.vocabulary import Vocabulary, tables

SPACES = " \t\n\r\x0b\x0c\x1c\x85\u00a0\u2003\u2028\u202f\u3000"
TEXTS = st.text(
    st.one_of(
        st.sampled_from(SPACES),
        st.sampled_from("ab1'.<|é東🙂\u200b\u0301\u180e"),
        st.characters(exclude_categories=["Cs"]),
    ),
    min_size=1,
)


@pytest.fixture(scope="module")
def across_words() -> Vocabulary:
    """A byte-level vocabulary with tokens of several words, and of parts of a character."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    texts = ["a b a b ab\u3000a b\u00a0a b", "東 東京 a b. ab 東", "é é\u2003é a b"] * 9
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=tag.END_OF_TEXT)
    tag.add_tag(tokenizer)
    return tables(tokenizer, tag.TAG, "the tokenizer")


def reference_word_starts(text: str, lengths: list[int]) -> list[int]:
    """Return the position of the first token that contains the first byte of each word.

    `lengths` is the number of bytes of each token.
    """
    token_of_byte = [position for position, length in enumerate(lengths) for _ in range(length)]
    return [token_of_byte[len(text[: m.start()].encode())] for m in re.finditer(r"\S+", text)]


def check(vocabulary: Vocabulary, text: str) -> None:
    [ids] = tag.encode(vocabulary, [text])
    # The bytes of a token, from its name and not from the table under test: one character per byte.
    lengths = [len(vocabulary.backend_tokenizer.id_to_token(i)) for i in ids]
    assert sum(lengths) == len(text.encode())
    assert vocabulary.byte_lengths is not None
    starts = word_starts(text, np.cumsum(vocabulary.byte_lengths[np.array(ids, np.int64)]))
    assert starts.tolist() == reference_word_starts(text, lengths)
    offsets = vocabulary.backend_tokenizer.encode(text, add_special_tokens=False).offsets
    ends = np.array([end for _, end in offsets], np.int64)
    assert word_starts_by_character(text, ends).tolist() == starts.tolist()


@given(text=TEXTS)
def test_word_starts_matches_byte_counting_reference(tokenizer: Any, text: str) -> None:
    check(tables(tokenizer, tag.TAG, "the tokenizer"), text)


@given(text=st.one_of(TEXTS, st.text("ab東é \u3000\u00a0.", min_size=1)))
def test_word_starts_matches_reference_for_multiword_tokens(across_words: Vocabulary, text: str) -> None:
    check(across_words, text)


def test_word_starts_locates_words_of_plain_sentence(tokenizer: Any) -> None:
    vocabulary = tables(tokenizer, tag.TAG, "the tokenizer")
    text = "the river,  and\n\nthe boat"
    [ids] = tag.encode(vocabulary, [text])
    starts = word_starts(text, np.cumsum(vocabulary.byte_lengths[np.array(ids)]))  # type: ignore[index]
    decoded = [vocabulary.backend_tokenizer.decode(ids[s:]).strip() for s in starts]
    assert decoded == [
        "the river,  and\n\nthe boat",
        "river,  and\n\nthe boat",
        "and\n\nthe boat",
        "the boat",
        "boat",
    ]


def test_word_starts_is_empty_for_whitespace_only_text() -> None:
    assert word_starts(" \n\u3000", np.array([1, 2, 5])).tolist() == []


@given(starts=st.lists(st.integers(0, 50), max_size=40).map(sorted), document=st.text())
def test_tag_positions_tags_all_but_first_word_at_rate_one(starts: list[int], document: str) -> None:
    positions = tag_positions(np.array(starts, np.int64), 1.0, 0, document)
    assert positions.tolist() == sorted({s for s in starts if s > starts[0]})


@given(starts=st.lists(st.integers(0, 500), max_size=40, unique=True).map(sorted), seed=st.integers())
def test_tag_positions_is_deterministic_per_seed_and_id(starts: list[int], seed: int) -> None:
    first = tag_positions(np.array(starts, np.int64), 0.5, seed, "d")
    assert first.tolist() == tag_positions(np.array(starts, np.int64), 0.5, seed, "d").tolist()
    assert set(first.tolist()) <= set(starts[1:])
    assert tag_positions(np.array(starts, np.int64), 0.0, seed, "d").size == 0


def test_tag_positions_meets_rate_and_varies_by_document() -> None:
    starts = np.arange(20_001)
    first, second = (tag_positions(starts, 0.05, 0, name) for name in ("a", "b"))
    # 1,000 expected, within five standard deviations of 31
    assert all(845 < len(positions) < 1155 for positions in (first, second))
    assert first.tolist() != second.tolist()
    assert first.tolist() != tag_positions(starts, 0.05, 1, "a").tolist()


def test_words_in_chunks_limits_tags_to_unsafe_chunks() -> None:
    text = "calm calm calm hate hate hate calm calm calm"  # nine words of five characters
    thirds: list[Chunk] = [{"end": 15, "score": 0}, {"end": 30, "score": 5}, {"end": 44, "score": 1}]
    allowed = words_in_chunks(text, thirds, 3)
    assert allowed.tolist() == [word == "hate" for word in text.split()]
    positions = tag_positions(np.arange(9), 1.0, 0, "d", allowed)
    assert positions.tolist() == [3, 4, 5]
    # Whether a word is sampled does not depend on which words are allowed.
    unrestricted = tag_positions(np.arange(9), 0.5, 0, "d")
    assert tag_positions(np.arange(9), 0.5, 0, "d", allowed).tolist() == [
        n for n in unrestricted if 3 <= n <= 5
    ]
    short_last: list[Chunk] = [{"end": 39, "score": 0}, {"end": 44, "score": 5}]
    assert words_in_chunks(text, short_last, 3).tolist() == [False] * 8 + [True]
    # The same text before a normalizer, with three characters for each.
    decomposed: list[Chunk] = [{"end": 45, "score": 0}, {"end": 90, "score": 5}, {"end": 132, "score": 1}]
    assert words_in_chunks(text, decomposed, 3).tolist() == allowed.tolist()
    assert words_in_chunks("", [{"end": 0, "score": 5}], 3).tolist() == []
    assert words_in_chunks(text, [{"end": 44, "score": 2}], 3).all(), "unsafe by a judge's score"
