"""Score each distinct text once: find duplicate texts, and copy scores to their duplicates.

The corpus is read three times: to find duplicates (`digests`, `duplicates`), to score the distinct texts
(`keep`), and to fill in the duplicates (`keep`, `fill`). Without duplicates it is read twice.

Only digests are compared, 128 bits each of text and id, so the shuffle does not move any text. It needs
memory for one pair of digests per text that occurs more than once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.cluster import Shared

KEY, OWNER, COPIES = "key", "owner", "copies"
_SCHEMA = pa.schema([(KEY, pa.string()), (OWNER, pa.string()), (COPIES, pa.int64())])


@dataclass(frozen=True)
class Duplicates:
    """Texts that occur more than once, sorted by digest. The owner of a text is the row that is scored."""

    keys: npt.NDArray[np.bytes_]
    """(n,) sorted digests of the texts"""
    owners: npt.NDArray[np.bytes_]
    """(n,) digest of the owner's id for each text"""
    by_owner: npt.NDArray[np.int64]
    """(n,) indices that sort `owners`"""
    copies: int
    """number of rows that take the score of another row"""

    @classmethod
    def of(cls, groups: list[pa.Table]) -> Duplicates:
        """Merge the tables that `duplicates` returns for disjoint sets of texts."""
        table = pa.concat_tables([_SCHEMA.empty_table(), *groups]).sort_by(KEY)
        owners = _column(table, OWNER)
        copies = pc.sum(table.column(COPIES)).as_py() or 0
        return cls(_column(table, KEY), owners, np.argsort(owners), copies)

    def is_copy(self, batch: pa.Table) -> npt.NDArray[np.bool_]:
        """Return which rows of `batch` (id, text) take the score of another row."""
        own = digests(batch)
        index, repeated = _find(self.keys, _column(own, KEY))
        if not repeated.any():
            return repeated
        copy: npt.NDArray[np.bool_] = repeated & (self.owners[index] != _column(own, OWNER))
        return copy

    def owned(self, batch: pa.Table) -> pa.Table:
        """Return the owners among the scored rows of `batch` (id), with their index in `keys` as `place`."""
        ids = np.array([digest(id) for id in batch.column("id").to_pylist()], "S32")
        index, found = _find(self.owners, ids, self.by_owner)
        return batch.filter(pa.array(found)).append_column("place", pa.array(index[found], pa.int64()))

    def arrange(self, owned: list[pa.Table], where: str) -> pa.Table:
        """Return the tables of `owned` in the order of `keys`. Raises RuntimeError if an owner is missing."""
        table = pa.concat_tables(owned).sort_by("place") if owned else None
        places = np.arange(len(self.keys))
        if table is None or not np.array_equal(table.column("place").to_numpy(), places):
            raise RuntimeError(
                f"{where}: a text that occurs more than once has no score; is every id unique?"
            )
        return table.drop_columns(["id", "place"])


def digest(text: str | None) -> str:
    """Return a 128-bit digest of a text as 32 hexadecimal digits."""
    return hashlib.blake2b((text or "").encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def digests(batch: pa.Table) -> pa.Table:
    """Return the digests of each row's text and id."""
    return pa.table(
        {
            KEY: pa.array([digest(text) for text in batch.column("text").to_pylist()], pa.string()),
            OWNER: pa.array([digest(id) for id in batch.column("id").to_pylist()], pa.string()),
        }
    )


def duplicates(rows: pa.Table) -> pa.Table:
    """Return the texts that occur more than once in `rows`, which has all `digests` of some texts.

    The row whose id has the smallest digest is the owner, so the order of rows does not matter.
    """
    groups = rows.group_by(KEY).aggregate([(OWNER, "min"), (OWNER, "count")])
    groups = groups.filter(pc.greater(groups.column(f"{OWNER}_count"), 1))
    others = pc.subtract(groups.column(f"{OWNER}_count"), 1).cast(pa.int64())
    return pa.table([groups.column(KEY), groups.column(f"{OWNER}_min"), others], schema=_SCHEMA)


def keep(batch: pa.Table, shared: Shared[Duplicates], copies: bool) -> pa.Table:
    """Return the rows of `batch` that are copies of another text, or the rows that are not."""
    duplicates = shared.get()
    return batch.filter(pa.array(duplicates.is_copy(batch) == copies)) if len(duplicates.keys) else batch


def owned(batch: pa.Table, shared: Shared[Duplicates]) -> pa.Table:
    """Return the scored rows of `batch` that have copies; see `Duplicates.owned`."""
    return shared.get().owned(batch)


def fill(batch: pa.Table, shared: Shared[Duplicates], scores: Shared[pa.Table]) -> pa.Table:
    """Return `batch`, which has only copies, with the score columns of their owners.

    `scores` comes from `Duplicates.arrange`.
    """
    columns = scores.get()
    index, _ = _find(shared.get().keys, _column(digests(batch), KEY))
    batch = batch.drop_columns([name for name in columns.column_names if name in batch.column_names])
    rows = columns.take(pa.array(index))
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        batch = batch.append_column(name, column)
    return batch


def _column(table: pa.Table, name: str) -> npt.NDArray[np.bytes_]:
    return np.array(table.column(name).to_pylist(), "S32")


def _find(
    keys: npt.NDArray[np.bytes_],
    wanted: npt.NDArray[np.bytes_],
    order: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return (indices, found) of `wanted` in `keys`, which is sorted, or sorted by `order`.

    An index is valid only where `found` is true.
    """
    if not len(keys):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    index = np.searchsorted(keys, wanted, sorter=order).clip(0, len(keys) - 1)
    index = index if order is None else order[index]
    return index, keys[index] == wanted
