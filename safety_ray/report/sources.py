"""The original documents that rewritten texts were made from, as sorted hashes of their ids.

A hash has 64 bits, so that the ids of a hundred million documents take 0.8 GB on a node.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from safety_ray.core.cluster import Shared
from safety_ray.core.records import stable_hash
from safety_ray.report.tally import count_originals

COLUMNS = ("source_id", "root_id")
"""Columns with the id of a text's document. `source_id` may be the id of another rewritten text, and then
`root_id`, which is optional, is that of the document."""
Sources = npt.NDArray[np.uint64]


def hash_sources(batch: pa.Table) -> pa.Table:
    """Return the hashes of the documents of a batch of rewritten texts, as the column `hash`."""
    names = [name for name in COLUMNS if name in batch.column_names]
    return pa.table({"hash": _hashes({id for name in names for id in batch.column(name).to_pylist()})})


def merge_sources(tables: Iterable[pa.Table]) -> Sources:
    """Return the sorted hashes of many batches."""
    hashes = [table.column("hash").to_numpy() for table in tables if len(table)]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]))


def has_text(ids: list[Any], sources: Sources) -> list[bool]:
    """Return, for each document, whether a text was made from it."""
    if not len(sources):
        return [False] * len(ids)
    hashes = _hashes(ids)
    positions = np.minimum(np.searchsorted(sources, hashes), len(sources) - 1)
    has: list[bool] = (sources[positions] == hashes).tolist()
    return has


def count_originals_of(batch: pa.Table, sources: Sources | Shared[Sources]) -> pa.Table:
    """Count a batch of scored documents; those that texts were made from have cells of their own."""
    known = sources.get() if isinstance(sources, Shared) else sources
    return count_originals(batch, has_text(batch.column("id").to_pylist(), known))


def _hashes(ids: Iterable[Any]) -> Sources:
    return np.array([stable_hash(id) for id in ids], np.uint64)
