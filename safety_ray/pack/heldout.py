"""Held-out web documents: which ones, and which of them are written.

Without a column `split`, or if it is null in all rows, a document is held out if its hash is below a share of
all hashes: `heldout_share`, or less if more than about `heldout_max` documents would be held out, because a
document that nothing measures is better trained on. The column `split` holds out all documents that it names;
the `heldout_max` of them with the lowest hashes are written. The hash is a function of the seed and the id.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core import dataset, filesystem
from safety_ray.core.records import stable_hash

HELDOUT, SPLIT = "heldout", "split"
FILE = ("heldout", "heldout.parquet")
"""Names of the folder and the file of held-out documents in an output folder"""
Hashes = npt.NDArray[np.uint64]
ALL = 2**64 - 1
"""The highest hash"""


def hash_of(seed: int, document: str) -> int:
    """Return the hash that decides whether a web document is held out by hash, and written."""
    return stable_hash(seed, "heldout", document)


def share_of(share: float, maximum: int, total: int) -> float:
    """Return the share of `total` documents to hold out by hash: `share`, or that of about `maximum`."""
    return min(share, maximum / total) if total else share


def held_out_by_hash(seed: int, share: float, document: str) -> bool:
    """Return true for about the share `share` of all ids; a function of the seed and the id."""
    return hash_of(seed, document) < share * 2**64


def held_out(batch: pa.Table, seed: int, share: float | None) -> pa.Array:
    """Return whether each web document of `batch` is held out: a share by hash, or by its column `split`."""
    if share is None:
        split = batch.column(SPLIT).cast(pa.string()).combine_chunks()
        return pc.fill_null(pc.equal(split, HELDOUT), False)
    ids = batch.column("id").to_pylist()
    return pa.array([held_out_by_hash(seed, share, i) for i in ids], pa.bool_())


def only_held_out(batch: pa.Table, seed: int, share: float | None, highest: int = ALL) -> pa.Table:
    """Return the held-out rows with hashes up to `highest`, with all their columns."""
    rows = batch.filter(held_out(batch, seed, share))
    if highest == ALL:
        return rows
    return rows.filter(
        pa.array([hash_of(seed, i) <= highest for i in rows.column("id").to_pylist()], pa.bool_())
    )


def hashes_of(batch: pa.Table, seed: int) -> pa.Table:
    """Return the hashes of the web documents that the column `split` holds out."""
    ids = batch.filter(held_out(batch, seed, None)).column("id").to_pylist()
    return pa.table({"hash": pa.array([hash_of(seed, i) for i in ids], pa.uint64())})


def sort_hashes(tables: list[pa.Table]) -> Hashes:
    """Return the hashes of all tables, sorted."""
    columns = [table.column("hash").to_numpy() for table in tables if len(table)]
    return np.sort(np.concatenate([np.empty(0, np.uint64), *columns]))


def contains(hashes: Hashes, seed: int, documents: list[str | None]) -> list[bool]:
    """Return whether the hash of each document is among the sorted `hashes`; None is not.

    Another document has the same 64 bits as one of n others with a probability of n / 2^64: for 50 million,
    once in 370 billion documents. It is then counted as held out.
    """
    wanted = np.array([0 if i is None else hash_of(seed, i) for i in documents], np.uint64)
    if not len(hashes):
        return [False] * len(documents)
    nearest = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
    is_heldout = (hashes[nearest] == wanted).tolist()
    return [i is not None and hit for i, hit in zip(documents, is_heldout, strict=True)]


def highest_written(hashes: Hashes, maximum: int) -> int:
    """Return the highest hash to write, so that at most `maximum` of the sorted `hashes` are written."""
    return int(hashes[maximum - 1]) if len(hashes) > maximum else ALL


def write(path: str, schema: pa.Schema, tables: list[pa.Table]) -> None:
    """Write held-out rows to one file, sorted by id, atomically. `schema` is that of an empty file."""
    rows = [schema.empty_table(), *(table for table in tables if len(table))]
    table = pa.concat_tables(rows, promote_options="permissive").sort_by("id")
    dataset.write_table(table, f"{path}{filesystem.PART}")
    fs, root = filesystem.find(path)
    fs.mv(f"{root}{filesystem.PART}", root)
