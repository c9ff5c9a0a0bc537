"""Where the harmfulness tag goes: before words of unsafe text, with probability p (section 4, Algorithm 2).

Words are maximal runs of non-whitespace. Tokens of a byte-level vocabulary spell the text's bytes in
order, so one table, bytes per token, says which token holds a word's first byte: exact where a token
holds a space in its middle, or where tokens share one character, and one search for the whole text.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from safety_ray.core.records import stable_hash

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_SPACES = np.array([chr(c).isspace() for c in range(0x3002)])  # no whitespace above U+3000
_SPACES[-1] = False  # stands for every character above


def word_starts(text: str, token_ends: Ints) -> Ints:
    """Position of the first token that holds the first character of each word of `text`.

    `token_ends` is how many bytes of the UTF-8 text have been spelled after each token, shape
    (tokens,). Returns shape (words,), ascending; two words in one token give its position twice.
    """
    codes, first = _characters(text)
    width = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    starts = (np.cumsum(width) - width)[first]
    found: Ints = np.searchsorted(token_ends, starts, side="right")
    return found


def word_starts_by_character(text: str, token_ends: Ints) -> Ints:
    """Like `word_starts`, for tokens of any vocabulary: `token_ends` counts characters instead of bytes."""
    _, first = _characters(text)
    positions: Ints = np.searchsorted(token_ends, np.flatnonzero(first), side="right")
    return positions


def words_in_chunks(text: str, scores: list[int], tag_from: int) -> Bools:
    """Which words of `text` begin in a chunk of score `tag_from` or above, shape (words,).

    `scores` are those of the text's chunks in order. They were cut at equal numbers of the encoder's
    tokens; here they are equal shares of the characters, which is off by a few words at an edge.
    """
    _, first = _characters(text)
    chunk = np.flatnonzero(first) * len(scores) // max(len(text), 1)
    found: Bools = (np.array(scores) >= tag_from)[chunk]
    return found


def _characters(text: str) -> tuple[npt.NDArray[np.uint32], Bools]:
    """The characters of `text` and which of them begin a word."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    space = _SPACES[np.minimum(codes, len(_SPACES) - 1)]
    first: Bools = ~space
    first[1:] &= space[:-1]
    return codes, first


def tag_positions(starts: Ints, rate: float, seed: int, document: str, allowed: Bools | None = None) -> Ints:
    """Token positions to put a tag before: each word but the first, with probability `rate`.

    `allowed` [words] are the words that may have one; None: all. Random by `seed` and the document's id
    alone. No position comes twice, and none lies at or
    before the first word's token, which matters only where one token holds several words.
    """
    if len(starts) < 2 or rate <= 0:
        return np.empty(0, np.int64)
    chance = np.random.default_rng(stable_hash(seed, "tag", document))
    hit = chance.random(len(starts) - 1) < rate
    drawn = starts[1:][hit if allowed is None else hit & allowed[1:]]
    return np.unique(drawn[drawn > starts[0]])
