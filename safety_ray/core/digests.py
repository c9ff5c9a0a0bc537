"""128-bit digests of texts and ids, and exact search in a sorted set of them.

Digests replace ids and texts where a stage compares many of them, because they take 16 bytes each and can
be read in place from Ray's object store. Among n digests, two different values share one with a probability
of about n² / 2^129: 1.5e-21 for 10^9. BLAKE2b is a cryptographic hash, so no page can be written to match
another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SIZE = 16
TYPE = pa.binary(SIZE)
TEXT, ID, HALF = "text_digest", "id_digest", "half"
ROWS_PER_BLOCK = 4_000_000
"""rows of digests that one task holds, about 190 MB with the number of their block"""
Halves = npt.NDArray[np.uint64]
"""(n, 2) digests, each as two integers"""


def digest(values: pa.Array | pa.ChunkedArray) -> pa.FixedSizeBinaryArray:
    """Return the digest of each text, of any of Arrow's text types. A null has that of an empty text."""
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    data = b"".join(
        hashlib.blake2b(text, digest_size=SIZE).digest() for chunk in chunks for text in _bytes(chunk)
    )
    return pa.FixedSizeBinaryArray.from_buffers(TYPE, len(values), [None, pa.py_buffer(data)])


def of_rows(batch: pa.Table) -> pa.Table:
    """Return the digests of each row's text and id, and the first half of the text's, to shuffle by."""
    texts = digest(batch.column("text"))
    return pa.table({TEXT: texts, ID: digest(batch.column("id")), HALF: first_half(texts)})


def _bytes(values: pa.Array) -> Iterator[memoryview]:
    """Return the bytes of each text without copying them."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    values = values.cast(pa.large_binary())
    if values.null_count:
        values = values.fill_null(b"")
    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1].tolist()
    view = memoryview(data or b"")
    return (view[start:end] for start, end in pairwise(ends))


def halves(digests: pa.FixedSizeBinaryArray | pa.ChunkedArray) -> Halves:
    """Return digests as pairs of integers; one chunk is not copied."""
    chunks = digests.chunks if isinstance(digests, pa.ChunkedArray) else [digests]
    pairs = [
        np.frombuffer(chunk.buffers()[1], np.uint64).reshape(-1, 2)[chunk.offset : chunk.offset + len(chunk)]
        for chunk in chunks
        if len(chunk)
    ]
    if len(pairs) == 1:
        return pairs[0]
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.uint64)


def first_half(digests: pa.FixedSizeBinaryArray | pa.ChunkedArray) -> pa.Array:
    """Return the first 8 bytes of digests as integers: a key to shuffle by.

    Ray Data hashes integers much faster than bytes, which it turns into Python objects.
    """
    return pa.array(halves(digests)[:, 0].view(np.int64))


@dataclass(frozen=True)
class DigestSet:
    """Sorted digests, 16 bytes each. Ray's workers read the arrays in place."""

    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, digests: Halves) -> tuple[DigestSet, npt.NDArray[np.int64]]:
        """Return the set of `digests`, and the indices that sort them."""
        order = np.argsort(digests[:, 0])
        high = digests[order, 0]
        if (high[1:] == high[:-1]).any():
            order = np.lexsort((digests[:, 1], digests[:, 0]))
            high = digests[order, 0]
        return cls(high, digests[order, 1]), order

    def __len__(self) -> int:
        return len(self.high)

    def find(self, digests: Halves) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the index of each of `digests` in the set, and whether it is in the set.

        An index is valid only where a digest was found.
        """
        if not len(self):
            return np.zeros(len(digests), np.int64), np.zeros(len(digests), bool)
        last = len(self) - 1
        order = np.argsort(digests[:, 0])  # a search in order reads the memory in order: several times faster
        index = np.empty(len(digests), np.int64)
        index[order] = np.searchsorted(self.high, digests[order, 0]).clip(0, last)
        found = (self.high[index] == digests[:, 0]) & (self.low[index] == digests[:, 1])
        while True:  # different digests may share their first half
            following = (index + 1).clip(0, last)
            more = ~found & (index < last) & (self.high[following] == digests[:, 0])
            if not more.any():
                return index, found
            index = np.where(more, following, index)
            found |= more & (self.low[index] == digests[:, 1])
