"""Web documents with the same text: one of them is trained on or held out, and its copies are left out.

The canonical row of a text is the one with the lowest hash of its id, so it does not depend on files or their
order. A row that the column `split` holds out precedes others, because its text must not be trained on. What
was made from a copy is held out if the canonical row is.

Only digests are compared: 128 bits of the text, 64 bits of the id. Two ids among n copies have the same hash
with a probability of about n² / 2^65; the second document is then left out as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.cluster import Shared
from safety_ray.core.records import stable_hash
from safety_ray.pack.heldout import SPLIT, held_out

KEY = "key"
_DIGESTS = pa.schema(
    [
        (KEY, pa.string()),  # digest of the text
        ("preceded", pa.bool_()),  # whether rows that `split` holds out precede this row
        ("hash", pa.uint64()),  # of the id
        ("heldout", pa.bool_()),
    ]
)
_COPIES = pa.schema([_DIGESTS.field("hash"), _DIGESTS.field("heldout")])


@dataclass(frozen=True)
class Copies:
    """The web documents whose text is that of another row, which is the canonical one."""

    hashes: npt.NDArray[np.uint64]
    """(n,) hashes of the ids, sorted"""
    heldout: npt.NDArray[np.bool_]
    """(n,) whether the canonical row is held out"""

    def find(self, documents: list[str | None]) -> tuple[list[bool], list[bool]]:
        """Return which documents are copies, and which of them have a canonical row that is held out."""
        if not len(self.hashes):
            return [False] * len(documents), [False] * len(documents)
        hashes = np.array([0 if i is None else _hash_of(i) for i in documents], np.uint64)
        nearest = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        found = (self.hashes[nearest] == hashes) & np.array([i is not None for i in documents], np.bool_)
        return found.tolist(), (found & self.heldout[nearest]).tolist()


def digests(batch: pa.Table, seed: int, share: float) -> pa.Table:
    """Return the digests of the web documents with text, and whether each document is held out."""
    batch = batch.filter(pa.array([bool(text) for text in batch.column("text").to_pylist()], pa.bool_()))
    heldout = held_out(batch, seed, share)
    texts = batch.column("text").to_pylist()
    keys = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]
    hashes = pa.array([_hash_of(id) for id in batch.column("id").to_pylist()], pa.uint64())
    preceded = pc.invert(heldout) if SPLIT in batch.column_names else pa.array([False] * len(batch))
    return pa.table([pa.array(keys, pa.string()), preceded, hashes, heldout], schema=_DIGESTS)


def copies_among(rows: pa.Table) -> pa.Table:
    """Return the copies among `rows`, which has all `digests` of some texts.

    Their column `heldout` is that of the canonical rows.
    """
    rows = rows.sort_by([(name, "ascending") for name in (KEY, "preceded", "hash")])
    keys, hashes = rows.column(KEY).to_numpy(), rows.column("hash").to_numpy()
    first = np.ones(len(rows), np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    canonical = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
    heldout = rows.column("heldout").take(pa.array(canonical))
    # A row with the same hash cannot be distinguished from the canonical one, so it stays.
    return pa.table([hashes, heldout], schema=_COPIES).filter(pa.array(hashes != hashes[canonical]))


def collect(tables: list[pa.Table], complete: bool) -> Copies:
    """Return the copies of all tables: of `copies_among`, or if not `complete`, of `digests`."""
    found = pa.concat_tables([_COPIES.empty_table() if complete else _DIGESTS.empty_table(), *tables])
    rows = (found if complete else copies_among(found)).sort_by("hash")
    return Copies(rows.column("hash").to_numpy(), rows.column("heldout").to_numpy())


def without(batch: pa.Table, copies: Shared[Copies]) -> pa.Table:
    """Return the documents of `batch` that are not copies."""
    found, _ = copies.get().find(batch.column("id").to_pylist())
    return batch.filter(pa.array([not copy for copy in found], pa.bool_()))


def _hash_of(document: str) -> int:
    return stable_hash("canonical", document)
