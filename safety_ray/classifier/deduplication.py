"""Score each distinct text once: find duplicate texts, and copy scores to their duplicates.

The corpus is read three times: to find duplicates (`duplicates`), to score the distinct texts
(`keep`), and to fill in the duplicates (`keep`, `fill`). Without duplicates it is read twice.

Only digests are compared (core/digests.py), so the shuffle does not move any text. Each node holds 56 bytes,
and later the scores, per text that occurs more than once; the driver holds none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.cluster import Shared
from safety_ray.core.digests import ID, TEXT, TYPE, DigestSet, digest, halves
from safety_ray.core.errors import UserError

OWNER, COPIES = "owner", "copies"
_SCHEMA = pa.schema([(TEXT, TYPE), (OWNER, TYPE), (COPIES, pa.int64())])


@dataclass(frozen=True)
class Duplicates:
    """Texts that occur more than once, by digest. The owner of a text is the row that is scored."""

    keys: DigestSet
    """n sorted digests of the texts"""
    owner_high: npt.NDArray[np.uint64]
    owner_low: npt.NDArray[np.uint64]
    """(n,) both halves of the digest of the owner's id for each text"""
    owners: DigestSet
    """the n sorted digests of the owners' ids"""
    by_owner: npt.NDArray[np.int64]
    """(n,) index in `keys` of each of `owners`"""

    @classmethod
    def of(cls, groups: list[pa.Table]) -> Duplicates:
        """Merge the tables that `duplicates` returns for disjoint sets of texts."""
        table = pa.concat_tables([_SCHEMA.empty_table(), *groups])
        keys, order = DigestSet.of(halves(table.column(TEXT)))
        owner = halves(table.column(OWNER))[order]
        owners, by_owner = DigestSet.of(owner)
        return cls(keys, owner[:, 0], owner[:, 1], owners, by_owner)

    def is_copy(self, batch: pa.Table) -> npt.NDArray[np.bool_]:
        """Return which rows of `batch` (id, text) take the score of another row."""
        index, repeated = self.keys.find(halves(digest(batch.column("text"))))
        if not repeated.any():
            return repeated
        own = halves(digest(batch.column("id")))
        owned = (self.owner_high[index] == own[:, 0]) & (self.owner_low[index] == own[:, 1])
        copy: npt.NDArray[np.bool_] = repeated & ~owned
        return copy

    def owned(self, batch: pa.Table) -> pa.Table:
        """Return the owners among the scored rows of `batch` (id), with their index in `keys` as `place`."""
        index, found = self.owners.find(halves(digest(batch.column("id"))))
        places = self.by_owner[index[found]]
        return batch.filter(pa.array(found)).append_column("place", pa.array(places, pa.int64()))


def arrange(owned: list[pa.Table], shared: Shared[Duplicates], where: str) -> pa.Table:
    """Return the tables of `owned` in the order of `Duplicates.keys`.

    Raises RuntimeError if an owner is missing.
    """
    table = pa.concat_tables(owned, promote_options="default").sort_by("place") if owned else None
    places = np.arange(len(shared.get().keys))
    if table is None or not np.array_equal(table.column("place").to_numpy(), places):
        raise RuntimeError(f"{where}: a text that occurs more than once has no score; is every id unique?")
    return table.drop_columns(["id", "place"])


def duplicates(rows: pa.Table) -> pa.Table:
    """Return the texts that occur more than once in `rows`, which has all digests (`of_rows`) of some texts.

    The row whose id has the lowest digest is the owner, so the order of rows does not matter. Raises
    UserError if two rows of a text have the same id.
    """
    groups = rows.group_by(TEXT).aggregate([(ID, "min"), (ID, "count"), (ID, "count_distinct")])
    groups = groups.filter(pc.greater(groups.column(f"{ID}_count"), 1))
    copies, distinct = groups.column(f"{ID}_count"), groups.column(f"{ID}_count_distinct")
    if pc.any(pc.not_equal(copies, distinct)).as_py():
        raise UserError("documents: an id occurs more than once with the same text; run jobs.ingest first.")
    others = pc.subtract(copies, 1).cast(pa.int64())
    return pa.table([groups.column(TEXT), groups.column(f"{ID}_min"), others], schema=_SCHEMA)


def keep(batch: pa.Table, shared: Shared[Duplicates], copies: bool) -> pa.Table:
    """Return the rows of `batch` that are copies of another text, or the rows that are not."""
    return batch.filter(pa.array(shared.get().is_copy(batch) == copies))


def owned(batch: pa.Table, shared: Shared[Duplicates]) -> pa.Table:
    """Return the scored rows of `batch` that have copies; see `Duplicates.owned`."""
    return shared.get().owned(batch)


def fill(batch: pa.Table, shared: Shared[Duplicates], scores: Shared[pa.Table]) -> pa.Table:
    """Return `batch`, which has only copies, with the score columns of their owners.

    `scores` comes from `arrange`.
    """
    columns = scores.get()
    index, _ = shared.get().keys.find(halves(digest(batch.column("text"))))
    batch = batch.drop_columns([name for name in columns.column_names if name in batch.column_names])
    rows = columns.take(pa.array(index))
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        batch = batch.append_column(name, column)
    return batch
