"""Where the harmfulness tag goes: before words of unsafe text, with probability p (section 4, Algorithm 2).

Words are maximal runs of non-whitespace. Tokens of a byte-level vocabulary spell the text's bytes in
order, so one table, bytes per token, says which token holds a word's first byte: exact where a token
holds a space in its middle, or where tokens share one character, and one search for the whole text.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from safety_ray.records import stable_hash

Ints = npt.NDArray[np.int64]

_SPACES = np.array([chr(c).isspace() for c in range(0x3002)])  # no whitespace above U+3000
_SPACES[-1] = False  # stands for every character above


def word_starts(text: str, token_ends: Ints) -> Ints:
    """Position of the first token that holds the first character of each word of `text`.

    `token_ends` is how many bytes of the UTF-8 text have been spelled after each token, shape
    (tokens,). Returns shape (words,), ascending; two words in one token give its position twice.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    space = _SPACES[np.minimum(codes, len(_SPACES) - 1)]
    first = ~space
    first[1:] &= space[:-1]
    width = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    starts = (np.cumsum(width) - width)[first]
    found: Ints = np.searchsorted(token_ends, starts, side="right")
    return found


def tag_positions(starts: Ints, rate: float, seed: int, document: str) -> Ints:
    """Token positions to put a tag before: each word but the first, with probability `rate`.

    Random by `seed` and the document's id alone. No position comes twice, and none lies at or
    before the first word's token, which matters only where one token holds several words.
    """
    if len(starts) < 2 or rate <= 0:
        return np.empty(0, np.int64)
    chance = np.random.default_rng(stable_hash(seed, "tag", document))
    drawn = starts[1:][chance.random(len(starts) - 1) < rate]
    return np.unique(drawn[drawn > starts[0]])
