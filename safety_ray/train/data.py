"""Random access to token rows, and the rows of each batch.

The batch of a step is a function of the seed and the step. Batches therefore do not depend on the number of
workers, and a resumed run only needs the number of its step.
"""

from __future__ import annotations

import bisect
import functools
from collections import OrderedDict
from typing import Any, NamedTuple

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray.core import dataset
from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError
from safety_ray.core.records import LEARN, RAW, RECIPES, TOKEN_ROW, require, stable_hash

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SOURCES = (RAW, "unsafe", *RECIPES, "chat", "other")
"""Sources of text with separate losses: the recipe of a span, except that unsafe raw text is `unsafe`"""

_NEEDED = ("row_length", "vocab_size", "tag", "tag_id")
_CACHED_BYTES = 1 << 30
_BLOCK = 1024  # rows shuffled together from the second epoch on: neighbours share a row group


class Rows(NamedTuple):
    """Token rows; each array has shape [rows, row length]."""

    ids: Ints
    learn: Bools  # whether a token is a target
    document: npt.NDArray[np.int16]  # index of the span in its row; -1 for padding
    source: npt.NDArray[np.int8]  # index in SOURCES


class TokenRows:
    """A folder of token rows with random access by row number.

    The constructor reads only the files' footers; `read` decodes the row groups of the requested rows. Raises
    UserError if the folder has no finished token rows or their numbers have gaps.
    """

    def __init__(self, path: str) -> None:
        record = read_record(path)
        if record is None or any(key not in record for key in _NEEDED):
            raise UserError(f"'{path}' has no token rows; give an output folder of the pack job.")
        self.path, self.record = path, record
        self.length, self.vocabulary = int(record["row_length"]), int(record["vocab_size"])
        groups: list[tuple[int, int, str, int]] = []  # (first row, last row, file, row group)
        expected = 0
        for name in dataset.files(path):
            with fsspec.open(name) as handle:
                file = pq.ParquetFile(handle)
                require(TOKEN_ROW, file.schema_arrow.names, f"'{name}'")
                for g in range(file.num_row_groups):
                    if file.metadata.row_group(g).num_rows:
                        groups.append((*_first_and_last(file, g), name, g))
                        expected += file.metadata.row_group(g).num_rows
        groups.sort()
        next_row = 0
        for first, last, name, _ in groups:
            if first != next_row:
                raise UserError(
                    f"'{name}' has row {first} instead of row {next_row}: the rows are not "
                    "numbered 0, 1, 2, ...; pack them again."
                )
            next_row = last + 1
        if next_row != expected:
            raise UserError(f"'{path}' has {expected} rows, numbered up to {next_row - 1}; pack them again.")
        self._groups, self._rows = groups, expected
        self._firsts = [first for first, *_ in groups]
        self._cache: OrderedDict[int, tuple[npt.NDArray[Any], ...]] = OrderedDict()

    def __len__(self) -> int:
        return self._rows

    def read(self, numbers: Ints) -> Rows:
        """Return the rows `numbers`, in this order."""
        shape = (len(numbers), self.length)
        rows = Rows(
            np.empty(shape, np.int64),
            np.empty(shape, np.bool_),
            np.empty(shape, np.int16),
            np.empty(shape, np.int8),
        )
        for i, number in enumerate(numbers):
            g = bisect.bisect_right(self._firsts, int(number)) - 1
            values = [group[int(number) - self._firsts[g]] for group in self._group(g)]
            rows.ids[i], rows.learn[i], rows.document[i], rows.source[i] = values
        return rows

    def batch(self, step: int, batch_rows: int, *, seed: int, rank: int = 0, world: int = 1) -> Rows:
        """Return the rows of `step` for worker `rank` of `world`; numbers of rows differ by at most one."""
        first, end = (step * batch_rows + n * batch_rows // world for n in (rank, rank + 1))
        return self.read(rows_at(np.arange(first, end), len(self), seed))

    def _group(self, g: int) -> tuple[npt.NDArray[Any], ...]:
        if g in self._cache:
            self._cache.move_to_end(g)
            return self._cache[g]
        _, _, name, index = self._groups[g]
        with fsspec.open(name) as handle:
            file = pq.ParquetFile(handle)
            names = ["row", "input_ids", "spans"] + [LEARN] * (LEARN in file.schema_arrow.names)
            table = file.read_row_group(index, columns=names).sort_by("row")
        ids = _matrix(table, "input_ids", self.length, name).astype(np.int32)
        if len(ids) and not (ids.min() >= 0 and ids.max() < self.vocabulary):
            raise UserError(f"'{name}' has token ids outside the vocabulary of {self.vocabulary} tokens.")
        document, source = _spans(table, self.length)
        learn = document >= 0
        if LEARN in names:
            learn &= _matrix(table, LEARN, self.length, name).astype(np.bool_)
        self._cache[g] = ids, learn, document, source
        cached = sum(array.nbytes for arrays in self._cache.values() for array in arrays)
        while len(self._cache) > 1 and cached > _CACHED_BYTES:
            cached -= sum(array.nbytes for array in self._cache.popitem(last=False)[1])
        return self._cache[g]


def rows_at(positions: Ints, rows: int, seed: int) -> Ints:
    """Return the row at each position of the run: in order in the first epoch, then shuffled per epoch."""
    return np.array([_row_at(int(p), rows, seed) for p in positions], np.int64)


def _row_at(position: int, rows: int, seed: int) -> int:
    epoch, offset = divmod(position, rows)
    if epoch == 0:
        return offset  # rows are packed in training order
    blocks, ends = _block_order(epoch, rows, seed)
    n = int(np.searchsorted(ends, offset, side="right"))
    block = int(blocks[n])
    size = min(_BLOCK, rows - block * _BLOCK)
    return block * _BLOCK + int(_in_block(epoch, block, size, seed)[offset - (int(ends[n]) - size)])


@functools.lru_cache(maxsize=2)
def _block_order(epoch: int, rows: int, seed: int) -> tuple[Ints, Ints]:
    """Return the blocks of an epoch in order, and the position at which each one ends."""
    count = -(-rows // _BLOCK)
    blocks = np.random.default_rng(stable_hash(seed, "blocks", epoch)).permutation(count).astype(np.int64)
    return blocks, np.cumsum(np.minimum(_BLOCK, rows - blocks * _BLOCK))


@functools.lru_cache(maxsize=8)
def _in_block(epoch: int, block: int, size: int, seed: int) -> Ints:
    generator = np.random.default_rng(stable_hash(seed, "rows", epoch, block))
    return generator.permutation(size).astype(np.int64)


def _first_and_last(file: pq.ParquetFile, group: int) -> tuple[int, int]:
    """Return the lowest and highest row number of a row group, from the footer if it has statistics."""
    meta = file.metadata.row_group(group)
    columns = [meta.column(i) for i in range(meta.num_columns)]
    stats = next((c.statistics for c in columns if c.path_in_schema == "row"), None)
    if stats is not None and stats.has_min_max:
        return int(stats.min), int(stats.max)
    bounds = pc.min_max(file.read_row_group(group, columns=["row"]).column("row")).as_py()
    return int(bounds["min"]), int(bounds["max"])


def _matrix(table: pa.Table, name: str, length: int, file: str) -> npt.NDArray[Any]:
    column = table.column(name).combine_chunks()
    if pc.any(pc.not_equal(pc.list_value_length(column), length)).as_py():
        raise UserError(f"'{file}': {name} of some rows has not {length} entries; pack them again.")
    values: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(table), length)


def _spans(table: pa.Table, length: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int8]]:
    """Return, for each token, the index of its span (-1 for padding) and its source, each [rows, length]."""
    spans = table.column("spans").combine_chunks()
    row = pc.list_parent_indices(spans).to_numpy()
    flat = spans.flatten()
    start, size = (flat.field(name).to_numpy().astype(np.int64) for name in ("start", "length"))
    first_spans = np.searchsorted(row, np.arange(len(table)))
    sources = pc.if_else(flat.field("unsafe"), "unsafe", flat.field("recipe"))
    sources = pc.fill_null(pc.index_in(sources, pa.array(SOURCES)), len(SOURCES) - 1).to_numpy()
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    tokens = np.repeat(row, size), np.repeat(start, size) + within
    document = np.full((len(table), length), -1, np.int16)
    source = np.full((len(table), length), len(SOURCES) - 1, np.int8)
    document[tokens] = np.repeat(np.arange(len(row)) - first_spans[row], size)
    source[tokens] = np.repeat(sources, size)
    return document, source
