"""Variants of Safe Beam Search: how candidates are compared before the drop, and when a search ends.

The paper drops the share of the candidates with the highest P(tag), and does not say when a search ends. The
first entry of each table is what this project takes for the paper's algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

DROP_BY = {
    "token": "P(tag) after the candidate",
    "word": "P(tag) at the last end of a word",
    "rise": "P(tag) after the candidate, divided by the mean along its beam",
}
"""Values of `drop_by`: what candidates are compared by. Of equal ones the less likely is dropped first."""

EARLY_STOPPING = {
    "always": "at k finished hypotheses; True in transformers",
    "heuristic": "as soon as, in addition, no live beam has a better score; False in transformers",
    "never": "as soon as, in addition, no live beam can get a better score; 'never' in transformers",
}
"""Values of `early_stopping`: when a search ends before its length limit."""


def rise(p_tag: float, before: Sequence[float]) -> float:
    """Return `p_tag` divided by the mean of the values `before` it; 1 if all of them are 0."""
    mean = math.fsum(before) / len(before)
    if mean:
        return p_tag / mean
    return math.inf if p_tag else 1.0


def score(log_prob: float, length: int, length_penalty: float) -> float:
    """Return the value by which hypotheses are ranked: log-probability / length ** length_penalty."""
    return log_prob / float(max(length, 1) ** length_penalty)


def best_length(early_stopping: str, length: int, max_length: int, length_penalty: float) -> int:
    """Return the length at which a live beam of `length` tokens is compared with finished ones.

    Its log-probability can only fall. With a positive penalty its score may rise all the same, up to the one
    that it would have at the maximum length.
    """
    return max_length if early_stopping == "never" and length_penalty > 0 else length
