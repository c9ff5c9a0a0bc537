"""Placement of the harmfulness tag: before words of unsafe text, with probability p (section 4, Algorithm 2).

Words are maximal runs of non-whitespace. The tokens of a byte-level vocabulary spell the bytes of a text in
order, so the cumulative number of bytes tells which token contains a word's first byte. This is exact even if
a token contains whitespace in its middle or several tokens share one character.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from safety_ray.core.chunks import Chunk
from safety_ray.core.records import stable_hash

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_IS_SPACE = np.array([chr(c).isspace() for c in range(0x3002)])  # there is no whitespace above U+3000
_IS_SPACE[-1] = False  # the last entry represents every character above


def word_starts(text: str, token_ends: Ints) -> Ints:
    """Return the position of the first token that contains the first character of each word of `text`.

    Args:
        text: the text that the tokens spell.
        token_ends: number of UTF-8 bytes spelled up to the end of each token, shape (tokens,).

    Returns:
        Positions in ascending order, shape (words,). Two words in one token give its position twice.
    """
    codes, begins_word = _characters(text)
    width = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    byte_starts = (np.cumsum(width) - width)[begins_word]
    positions: Ints = np.searchsorted(token_ends, byte_starts, side="right")
    return positions


def word_starts_by_character(text: str, token_ends: Ints) -> Ints:
    """Like `word_starts`, for tokens of any vocabulary: `token_ends` counts characters instead of bytes."""
    _, begins_word = _characters(text)
    positions: Ints = np.searchsorted(token_ends, np.flatnonzero(begins_word), side="right")
    return positions


def words_in_chunks(text: str, chunks: list[Chunk], tag_from: int) -> Bools:
    """Return which words of `text` begin in a chunk of score `tag_from` or above, shape (words,).

    `chunks` are those of the scored text. If a tokenizer has composed some of its characters since, their
    ends move in proportion. If no chunk has such a score, because a judge has scored the text, all words are
    returned.
    """
    _, begins_word = _characters(text)
    unsafe_chunks = np.array([chunk["score"] >= tag_from for chunk in chunks], np.bool_)
    if not unsafe_chunks.any():
        return np.ones(int(begins_word.sum()), np.bool_)
    ends = np.array([chunk["end"] for chunk in chunks], np.int64)
    characters = np.flatnonzero(begins_word) * ends[-1] // max(len(text), 1)
    unsafe: Bools = unsafe_chunks[np.searchsorted(ends, characters, side="right")]
    return unsafe


def tag_positions(starts: Ints, rate: float, seed: int, document: str, allowed: Bools | None = None) -> Ints:
    """Sample the token positions to insert a tag before: each word but the first with probability `rate`.

    The result is a function of the arguments; `seed` and `document` determine the random numbers. No position
    occurs twice. None is at or before the first word's token, which matters only if a token contains several
    words.

    Args:
        starts: positions of the words' tokens, as `word_starts` returns them.
        rate: probability of a tag.
        seed: seed of the run.
        document: id of the document.
        allowed: which words may have a tag, shape (words,); None allows all.
    """
    if len(starts) < 2 or rate <= 0:
        return np.empty(0, np.int64)
    generator = np.random.default_rng(stable_hash(seed, "tag", document))
    sampled = generator.random(len(starts) - 1) < rate
    positions = starts[1:][sampled if allowed is None else sampled & allowed[1:]]
    return np.unique(positions[positions > starts[0]])


def _characters(text: str) -> tuple[npt.NDArray[np.uint32], Bools]:
    """Return the code points of `text`, and which of them begin a word."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    space = _IS_SPACE[np.minimum(codes, len(_IS_SPACE) - 1)]
    begins_word: Bools = ~space
    begins_word[1:] &= space[:-1]
    return codes, begins_word
