"""Safe Beam Search as a literal, slow transcription of the paper's algorithm: the oracle of the tests.

It has no cache and does not reuse look-aheads as expansions: every evaluation runs the whole text through the
model.

The variants (safety_ray/decode/variants.py) are literal, too: what a candidate is dropped by is computed from
all of its prefixes, and whether a search may improve by trying every length.
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


LogProbs = Callable[[list[tuple[int, ...]]], Sequence[Sequence[float]]]


def brute_force(
    log_probs: LogProbs,
    *,
    tag: int,
    eos: frozenset[int],
    k: int,
    n: int,
    length: int,
    share: str,
    stride: int = 1,
    drop_by: str = "token",
    threshold: float = 0.0,
    early_stopping: str = "always",
    length_penalty: float = 0.0,
    begins_word: Callable[[int, int], bool] = lambda previous, token: False,
) -> tuple[list[Text], list[Text]]:
    """Return (finished, live) of the search; `log_probs` returns one row over the vocabulary per text."""

    def risk(text: Text) -> float:
        if drop_by == "token":
            return text.p_tag[-1]
        p_tags = [math.exp(log_probs([text.tokens[:i]])[0][tag]) for i in range(len(text.tokens))]
        if not text.ended:
            p_tags.append(math.exp(log_probs([text.tokens])[0][tag]))
        if drop_by == "rise":
            mean = math.fsum(p_tags[: len(text.tokens)]) / len(text.tokens)
            return p_tags[-1] / mean
        length = len(p_tags) - 1
        while drop_by == "word" and not text.ended and length and not ends_word(text.tokens[:length]):
            length -= 1
        return p_tags[length]

    def ends_word(tokens: tuple[int, ...]) -> bool:
        row = log_probs([tokens])[0]
        following = max((t for t in range(len(row)) if t != tag), key=lambda t: (row[t], -t))
        return following in eos or begins_word(tokens[-1], following)

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
        risks = {text.tokens: risk(text) for text in candidates}
        for _ in range(math.floor(Fraction(share) * len(candidates)) if step % stride == 0 else 0):
            worst = candidates[0]
            for other in candidates[1:]:
                if risks[other.tokens] > risks[worst.tokens] or (
                    risks[other.tokens] == risks[worst.tokens] and other.log_prob <= worst.log_prob
                ):
                    worst = other
            if risks[worst.tokens] < threshold:
                break
            candidates.remove(worst)
        live = []
        for _ in range(min(k, len(candidates))):
            best = candidates[0]
            for other in candidates[1:]:
                if other.log_prob > best.log_prob:
                    best = other
            candidates.remove(best)
            (finished if best.ended else live).append(best)
        if not live:
            break
        if len(finished) >= k:
            if early_stopping == "always":
                break
            lengths = range(step, length + 1) if early_stopping == "never" else [step]
            kth = sorted((_score(text, length_penalty) for text in finished), reverse=True)[k - 1]
            if all(text.log_prob / n**length_penalty <= kth for text in live for n in lengths):
                break
    return finished, live


def answers(finished: list[Text], live: list[Text], k: int, length_penalty: float = 0.0) -> list[Text]:
    """Return the k best of both, best first."""
    texts = finished + live
    texts.sort(key=lambda text: -_score(text, length_penalty))
    return texts[:k]


def _score(text: Text, length_penalty: float) -> float:
    return text.log_prob / float(len(text.tokens) ** length_penalty)
