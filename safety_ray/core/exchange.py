"""Exchanges between all blocks of a dataset: the rows of a key come into one block.

A stage calls `by_key`, and no sort, groupby or join of Ray Data itself, because nodes may be lost. Tasks of
Ray 2.60's default shuffle fetch their parts while they run. If a node is lost with parts, such tasks can
occupy all CPUs and wait for parts that no CPU is left to compute again. `by_key` uses tasks that have the
parts as arguments, and so start when all are there; `cluster.start` makes this the default for whatever else
exchanges rows, such as a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from safety_ray.core.digests import digest, halves

if TYPE_CHECKING:
    from ray.data import Dataset

MAX_PARTS = 250_000
"""of blocks before times blocks after an exchange; the driver needs about 6 KB for each part"""
WHOLE_BLOCKS: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
"""arguments of `map_batches` for a function of whole blocks"""
_PLACE = "_block"


def use_arguments(context: Any) -> None:
    """Let datasets of the Ray Data `context` exchange rows between tasks that have them as arguments."""
    from ray.data.context import ShuffleStrategy

    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED


def by_key(
    rows: Dataset, key: str, blocks: int, function: Callable[..., pa.Table], *, inputs: int, **settings: Any
) -> Dataset:
    """Return `function(block, **settings)` of `blocks` blocks: all rows with the same `key` are in one.

    The column `key` has integers or texts. An integer n below `blocks` comes into block n. A block may be
    empty. `inputs` is the number of blocks, or of files, that `rows` has now. Ray's default shuffle, whose
    blocks are in no order, is used for more than `MAX_PARTS` parts.

    The function is called here, because Ray splits what any earlier step returns if it is larger than
    `DataContext.target_max_block_size`, 128 MB.
    """
    if blocks == 1:
        return rows.repartition(1).map_batches(function, fn_kwargs=settings, **WHOLE_BLOCKS)
    from ray.data.context import ShuffleStrategy

    placed = rows.map_batches(place, fn_kwargs={"key": key, "blocks": blocks}, **WHOLE_BLOCKS)
    if inputs * blocks > MAX_PARTS:
        placed.context.shuffle_strategy = ShuffleStrategy.SHUFFLE_V2
        exchanged = placed.repartition(blocks, keys=[_PLACE])
    else:
        use_arguments(placed.context)
        exchanged = placed.sort(_PLACE, boundaries=list(range(1, blocks)))
    return exchanged.map_batches(call_without_place, fn_args=(function, settings), **WHOLE_BLOCKS)


def on_driver_node(rows: Dataset) -> Dataset | None:
    """Execute `rows`, and store them on the driver's node. Returns None if there are none.

    Ray computes blocks of a lost node again. This dataset's blocks are lost with the driver only, so a step
    after it may change the files that `rows` reads.
    """
    import ray
    import ray.data

    tables = rows.iter_batches(batch_format="pyarrow", batch_size=None)
    stored = [ray.put(table) for table in tables if len(table)]
    return ray.data.from_arrow_refs(stored) if stored else None


def place(batch: pa.Table, key: str, blocks: int) -> pa.Table:
    """Return `batch` with the number of each row's block."""
    values = batch.column(key)
    if pa.types.is_integer(values.type):
        numbers = values.cast(pa.int64()).to_numpy().view(np.uint64)
    else:
        numbers = halves(digest(values))[:, 0]
    return batch.append_column(_PLACE, pa.array((numbers % np.uint64(blocks)).astype(np.int64)))


def call_without_place(
    batch: pa.Table, function: Callable[..., pa.Table], settings: dict[str, Any]
) -> pa.Table:
    """Return what `function` returns for `batch` without the number that `place` has added."""
    return function(batch.drop_columns([_PLACE]), **settings)
