"""Safe Beam Search as a literal, slow transcription of the paper's algorithm: the oracle of the tests.

It has no cache and does not reuse look-aheads as expansions: every evaluation runs the whole text through the
model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple


class Text(NamedTuple):
    tokens: tuple[int, ...]
    log_prob: float
    p_tag: tuple[float, ...]
    ended: bool


def brute_force(
    log_probs: Callable[[list[tuple[int, ...]]], Sequence[Sequence[float]]],
    *,
    tag: int,
    eos: frozenset[int],
    k: int,
    n: int,
    length: int,
    share: str,
    stride: int = 1,
) -> tuple[list[Text], list[Text]]:
    """Return (finished, live) of the search; `log_probs` returns one row over the vocabulary per text."""
    finished: list[Text] = []
    live = [Text((), 0.0, (), False)]
    for step in range(1, length + 1):
        candidates: list[Text] = []
        for text in live:
            row = log_probs([text.tokens])[0]
            tokens = [token for token in range(len(row)) if token != tag]
            tokens.sort(
                key=lambda token: -row[token]
            )  # a stable sort: on a tie the smaller token comes first
            tokens = tokens[:n]
            after = log_probs([(*text.tokens, token) for token in tokens])
            for token, look_ahead in zip(tokens, after, strict=True):
                ended = token in eos
                p_tag = math.exp(row[tag]) if ended else math.exp(look_ahead[tag])
                candidates.append(
                    Text((*text.tokens, token), text.log_prob + row[token], (*text.p_tag, p_tag), ended)
                )
        for _ in range(math.floor(Fraction(share) * len(candidates)) if step % stride == 0 else 0):
            worst = candidates[0]
            for other in candidates[1:]:
                if other.p_tag[-1] > worst.p_tag[-1] or (
                    other.p_tag[-1] == worst.p_tag[-1] and other.log_prob <= worst.log_prob
                ):
                    worst = other
            candidates.remove(worst)
        live = []
        for _ in range(min(k, len(candidates))):
            best = candidates[0]
            for other in candidates[1:]:
                if other.log_prob > best.log_prob:
                    best = other
            candidates.remove(best)
            (finished if best.ended else live).append(best)
        if len(finished) >= k or not live:
            break
    return finished, live


def answers(finished: list[Text], live: list[Text], k: int, length_penalty: float = 0.0) -> list[Text]:
    """Return the k best of both, best first."""
    texts = finished + live
    texts.sort(key=lambda text: -text.log_prob / len(text.tokens) ** length_penalty)
    return texts[:k]
