"""Texts that occur more than once: one row of each is scored, the others take its score.

Only digests are compared, 128 bits of the text and of the id, so that a crawl's texts are never
moved or held for it. What is kept is one pair of digests for each text that occurs more than once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

KEY, OWNER, COPIES = "key", "owner", "copies"
_SCHEMA = pa.schema([(KEY, pa.string()), (OWNER, pa.string()), (COPIES, pa.int64())])


@dataclass(frozen=True)
class Repeats:
    """The texts that occur more than once, in the order of their digests."""

    keys: npt.NDArray[np.bytes_]
    """(n,) digests of the texts, sorted"""
    owners: npt.NDArray[np.bytes_]
    """(n,) digest of the id of the row that is scored for each text"""
    by_owner: npt.NDArray[np.int64]
    """(n,) places in `owners`, in the order of its digests"""
    copies: int
    """rows that take the score of another row"""

    @classmethod
    def of(cls, groups: list[pa.Table]) -> Repeats:
        """From the tables of `repeated`, one of each part of the digests."""
        table = pa.concat_tables([_SCHEMA.empty_table(), *groups]).sort_by(KEY)
        owners = _digests(table, OWNER)
        copies = pc.sum(table.column(COPIES)).as_py() or 0
        return cls(_digests(table, KEY), owners, np.argsort(owners), copies)

    def is_copy(self, batch: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of `batch` (id, text) take the score of another row."""
        marks = fingerprints(batch)
        at, repeated = _find(self.keys, _digests(marks, KEY))
        if not repeated.any():
            return repeated
        copy: npt.NDArray[np.bool_] = repeated & (self.owners[at] != _digests(marks, OWNER))
        return copy

    def split(self, batch: pa.Table, copies: bool) -> pa.Table:
        """The rows of `batch` that are copies, or those that are not."""
        return batch.filter(pa.array(self.is_copy(batch) == copies)) if len(self.keys) else batch

    def owned(self, batch: pa.Table) -> pa.Table:
        """The rows of `batch` (id) that were scored for copies, with their place among `keys`."""
        ids = np.array([digest(id) for id in batch.column("id").to_pylist()], "S32")
        at, found = _find(self.owners, ids, self.by_owner)
        return batch.filter(pa.array(found)).append_column("place", pa.array(at[found], pa.int64()))

    def arrange(self, owned: list[pa.Table], where: str) -> pa.Table:
        """The tables of `owned` in the order of `keys`; RuntimeError where one is missing."""
        table = pa.concat_tables(owned).sort_by("place") if owned else None
        places = np.arange(len(self.keys))
        if table is None or not np.array_equal(table.column("place").to_numpy(), places):
            raise RuntimeError(
                f"{where}: a text that occurs more than once has no score; is every id unique?"
            )
        return table.drop_columns(["id", "place"])

    def fill(self, batch: pa.Table, known: pa.Table) -> pa.Table:
        """`batch`, copies all of them, with the columns of `known`, a table of `arrange`."""
        at, _ = _find(self.keys, _digests(fingerprints(batch), KEY))
        batch = batch.drop_columns([name for name in known.column_names if name in batch.column_names])
        for name, column in zip(known.column_names, known.take(pa.array(at)).columns, strict=True):
            batch = batch.append_column(name, column)
        return batch


def digest(text: str | None) -> str:
    """128 bits of a text, as 32 hexadecimal digits."""
    return hashlib.blake2b((text or "").encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def fingerprints(batch: pa.Table) -> pa.Table:
    """The digests of each row's text and id."""
    return pa.table(
        {
            KEY: pa.array([digest(text) for text in batch.column("text").to_pylist()], pa.string()),
            OWNER: pa.array([digest(id) for id in batch.column("id").to_pylist()], pa.string()),
        }
    )


def repeated(marks: pa.Table) -> pa.Table:
    """Of `fingerprints` of all rows of some texts: those texts that occur more than once.

    The row with the smallest digest of its id is scored, whatever the order of rows is.
    """
    groups = marks.group_by(KEY).aggregate([(OWNER, "min"), (OWNER, "count")])
    groups = groups.filter(pc.greater(groups.column(f"{OWNER}_count"), 1))
    others = pc.subtract(groups.column(f"{OWNER}_count"), 1).cast(pa.int64())
    return pa.table([groups.column(KEY), groups.column(f"{OWNER}_min"), others], schema=_SCHEMA)


def _digests(table: pa.Table, name: str) -> npt.NDArray[np.bytes_]:
    return np.array(table.column(name).to_pylist(), "S32")


def _find(
    among: npt.NDArray[np.bytes_],
    wanted: npt.NDArray[np.bytes_],
    order: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(places, found) of `wanted` in `among`, which is sorted, or sorted by `order`.

    A place is only right where found.
    """
    if not len(among):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    at = np.searchsorted(among, wanted, sorter=order).clip(0, len(among) - 1)
    at = at if order is None else order[at]
    return at, among[at] == wanted
