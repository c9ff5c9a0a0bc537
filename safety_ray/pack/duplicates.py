"""Web documents with the same text: one of them is trained on or held out, and its copies are left out.

The canonical row of a text is the one whose id has the lowest digest, so it does not depend on files or their
order. A row that the column `split` holds out precedes others, because its text must not be trained on. What
was made from a copy is held out if the canonical row is.

Only digests are compared (core/digests.py). Each node holds 17 bytes per copy, and the driver none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.cluster import Shared
from safety_ray.core.digests import ID, TEXT, TYPE, DigestSet, digest, halves, of_rows
from safety_ray.pack.heldout import held_out

_COPIES = pa.schema([(ID, TYPE), ("heldout", pa.bool_())])


@dataclass(frozen=True)
class Copies:
    """The web documents whose text is that of another row, which is the canonical one."""

    ids: DigestSet
    """n sorted digests of the ids"""
    heldout: npt.NDArray[np.bool_]
    """(n,) whether the canonical row is held out"""

    @classmethod
    def of(cls, tables: list[pa.Table]) -> Copies:
        """Merge the tables that `copies_among` returns for disjoint sets of texts."""
        table = pa.concat_tables([_COPIES.empty_table(), *tables])
        ids, order = DigestSet.of(halves(table.column(ID)))
        return cls(ids, table.column("heldout").to_numpy()[order])

    def find(self, documents: pa.Array | pa.ChunkedArray) -> tuple[list[bool], list[bool]]:
        """Return which documents are copies, and which of them have a canonical row that is held out.

        `documents` has ids; null is no copy.
        """
        index, found = self.ids.find(halves(digest(documents)))
        found &= documents.is_valid().to_numpy(zero_copy_only=False)
        heldout = found.copy()
        heldout[found] = self.heldout[index[found]]
        return found.tolist(), heldout.tolist()


def digests(batch: pa.Table, seed: int, share: float | None) -> pa.Table:
    """Return the digests of the web documents with text, and whether each document is held out."""
    batch = batch.filter(pa.array([bool(text) for text in batch.column("text").to_pylist()], pa.bool_()))
    heldout = held_out(batch, seed, share)
    preceded = pc.invert(heldout) if share is None else pa.array([False] * len(batch))
    return of_rows(batch).append_column("preceded", preceded).append_column("heldout", heldout)


def copies_among(rows: pa.Table) -> pa.Table:
    """Return the copies among `rows`, which has all `digests` of some texts.

    Their column `heldout` is that of the canonical rows.
    """
    texts, ids = halves(rows.column(TEXT)), halves(rows.column(ID))
    preceded = rows.column("preceded").to_numpy()
    lowest = ids.byteswap()  # in the order of bytes, as in classifier/deduplication.py
    order = np.lexsort((lowest[:, 1], lowest[:, 0], preceded, texts[:, 1], texts[:, 0]))
    texts, ids = texts[order], ids[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (texts[1:] != texts[:-1]).any(axis=1)
    canonical = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    # A row with the same id cannot be distinguished from the canonical one, so it stays.
    copies = (ids != ids[canonical]).any(axis=1)
    heldout = rows.column("heldout").to_numpy()[order[canonical]]
    own = rows.column(ID).take(pa.array(order[copies]))
    return pa.table([own, pa.array(heldout[copies])], schema=_COPIES)


def without(batch: pa.Table, copies: Shared[Copies]) -> pa.Table:
    """Return the documents of `batch` that are not copies."""
    is_copy, _ = copies.get().find(batch.column("id"))
    return batch.filter(pa.array([not copy for copy in is_copy], pa.bool_()))
