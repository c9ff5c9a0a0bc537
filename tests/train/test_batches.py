"""Batches of rows of different lengths: sorted by length, and without padding that all rows share."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from safety_ray.train.batches import Batches
from safety_ray.train.data import Rows, TokenRows
from safety_ray.train.loss import IGNORED
from safety_ray.train.settings import PretrainConfig

LENGTH, ROWS = 100, 6
USED = [40, 3, 97, 33, 32, 64]
"""Tokens of each row up to its last target"""


class RowsOfLengths:
    """Token rows of which only the last token of the used ones is learned."""

    length, tag_id = LENGTH, 7

    def batch(self, step: int, batch_rows: int, **_: Any) -> Rows:
        ids = np.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) + 1000 * step
        learn, document = np.zeros(ids.shape, bool), np.zeros(ids.shape, np.int16)
        learn[np.arange(ROWS), np.array(USED) - 1] = True
        return Rows(ids, learn, document, np.zeros(ids.shape, np.int8))


def test_batches_put_rows_of_similar_length_together(alone: None) -> None:
    config = PretrainConfig(rows="rows", output="out", workers=1, batch_rows=ROWS)
    rows = cast(TokenRows, RowsOfLengths())
    [(_, batch)] = Batches(rows, config, 2, 3, torch.device("cpu"), by_document=False)
    order = [2, 0, 3, 5, 1, 4]  # rows of equal width stay in their order
    assert (batch.ids[:, 0] - 2000).tolist() == [row * LENGTH for row in order]
    assert [micro.ids.shape for micro in batch.split(2)] == [(2, 100), (2, 64), (2, 32)]
    for micro, pair in zip(batch.split(2), (order[:2], order[2:4], order[4:]), strict=True):
        places = (micro.targets != IGNORED).nonzero().tolist()
        assert places == [[n, USED[row] - 2] for n, row in enumerate(pair)]
        expected = [2000 + row * LENGTH + USED[row] - 1 for row in pair]
        assert micro.targets[micro.targets != IGNORED].tolist() == expected
        assert micro.positions.tolist() == [list(range(micro.ids.shape[1]))] * 2


TAG, END = 7, 9


class TaggedRows:
    """Token rows of two documents; the first one of the first row has tags."""

    tag_id = TAG

    def batch(self, step: int, batch_rows: int, **_: Any) -> Rows:
        ids = np.array([[1, TAG, 2, 3, TAG, 4, END, 5], [1, 2, 3, 4, END, 5, 6, 8]])
        document = np.array([[0] * 7 + [1], [0] * 5 + [1] * 3])
        source = np.array([[2] * 7 + [1], [1] * 8])
        return Rows(ids, np.ones(ids.shape, bool), document.astype(np.int16), source.astype(np.int8))


def test_batches_without_read_tags_have_tags_as_targets_only(alone: None) -> None:
    config = PretrainConfig(rows="rows", output="out", workers=1, batch_rows=2, read_tags=False)
    rows = cast(TokenRows, TaggedRows())
    [(_, batch)] = Batches(rows, config, 0, 1, torch.device("cpu"), by_document=True)
    tagged, plain = 0, 1
    assert batch.ids[tagged, :6].tolist() == [1, 2, 3, 4, END, 5]
    assert batch.targets[tagged].tolist() == [TAG, 3, TAG, END, 5, *[IGNORED] * 3]
    assert batch.sources[tagged, :5].tolist() == [2, 2, 2, 2, 1]
    assert batch.positions[tagged, :6].tolist() == [0, 1, 2, 3, 4, 0]
    assert batch.ids[plain].tolist() == [1, 2, 3, 4, END, 5, 6, 8]
    assert batch.targets[plain].tolist() == [2, 3, 4, END, 5, 6, 8, IGNORED]
