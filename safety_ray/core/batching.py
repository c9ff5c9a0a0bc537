"""Batches of texts of similar length."""

from __future__ import annotations


def batches_by_length(lengths: list[int], tokens: int) -> list[list[int]]:
    """Return batches of indices, longest texts first.

    A batch has at most `tokens` tokens, including padding, or a single text.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
