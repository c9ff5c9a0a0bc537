"""Token rows by number, and the batches of a run.

The batch of a step is a function of the seed and the step alone, so any number of workers sees
the same batches, and a run that goes on needs no more than the number of its step.
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
"""Kinds of text whose losses are told apart: a span's recipe, but raw text to be tagged is `unsafe`."""


_NEEDED = ("row_length", "vocab_size", "tag", "tag_id")
_CACHED_BYTES = 1 << 30
_BLOCK = 1024  # rows shuffled among themselves from the second epoch on: near rows share a row group


class Rows(NamedTuple):
    """Rows of tokens, each array [rows, row length]."""

    ids: Ints
    learn: Bools  # which are to be learned
    document: npt.NDArray[np.int16]  # number of the span in its row; -1 outside of all
    source: npt.NDArray[np.int8]  # index in SOURCES


class TokenRows:
    """The rows of a folder of token rows, read by number as they are asked for.

    Opening reads the files' footers only; a read decodes the row groups that hold the rows.
    Raises UserError where the folder holds no finished token rows or their numbers have gaps.
    """

    def __init__(self, path: str) -> None:
        record = read_record(path)
        if record is None or any(key not in record for key in _NEEDED):
            raise UserError(f"'{path}' holds no token rows; give the folder that the pack job wrote.")
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
        follows = 0
        for first, last, name, _ in groups:
            if first != follows:
                raise UserError(
                    f"'{name}' has row {first} where row {follows} should be: the rows are not "
                    "numbered 0, 1, 2, ...; pack them again."
                )
            follows = last + 1
        if follows != expected:
            raise UserError(f"'{path}' holds {expected} rows, numbered up to {follows - 1}; pack them again.")
        self._groups, self._rows = groups, expected
        self._firsts = [first for first, *_ in groups]
        self._cache: OrderedDict[int, tuple[npt.NDArray[Any], ...]] = OrderedDict()

    def __len__(self) -> int:
        return self._rows

    def read(self, numbers: Ints) -> Rows:
        """The rows `numbers`, in that order."""
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
        """The rows of `step` that worker `rank` of `world` takes."""
        share = batch_rows // world
        first = step * batch_rows + rank * share
        return self.read(rows_at(np.arange(first, first + share), len(self), seed))

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
            raise UserError(f"'{name}' holds token ids outside the vocabulary of {self.vocabulary} tokens.")
        document, source = _spans(table, self.length)
        learn = document >= 0
        if LEARN in names:
            learn &= _matrix(table, LEARN, self.length, name).astype(np.bool_)
        self._cache[g] = ids, learn, document, source
        held = sum(array.nbytes for arrays in self._cache.values() for array in arrays)
        while len(self._cache) > 1 and held > _CACHED_BYTES:
            held -= sum(array.nbytes for array in self._cache.popitem(last=False)[1])
        return self._cache[g]


def rows_at(positions: Ints, rows: int, seed: int) -> Ints:
    """The row at each position of the run: the rows' own order first, then a new shuffle each epoch."""
    return np.array([_row_at(int(p), rows, seed) for p in positions], np.int64)


def _row_at(position: int, rows: int, seed: int) -> int:
    epoch, at = divmod(position, rows)
    if epoch == 0:
        return at  # the packer has shuffled: `row` is the position in training order
    blocks, ends = _block_order(epoch, rows, seed)
    n = int(np.searchsorted(ends, at, side="right"))
    block = int(blocks[n])
    size = min(_BLOCK, rows - block * _BLOCK)
    return block * _BLOCK + int(_in_block(epoch, block, size, seed)[at - (int(ends[n]) - size)])


@functools.lru_cache(maxsize=2)
def _block_order(epoch: int, rows: int, seed: int) -> tuple[Ints, Ints]:
    """Blocks of an epoch in order, and the position at which each ends."""
    count = -(-rows // _BLOCK)
    blocks = np.random.default_rng(stable_hash(seed, "blocks", epoch)).permutation(count).astype(np.int64)
    return blocks, np.cumsum(np.minimum(_BLOCK, rows - blocks * _BLOCK))


@functools.lru_cache(maxsize=8)
def _in_block(epoch: int, block: int, size: int, seed: int) -> Ints:
    generator = np.random.default_rng(stable_hash(seed, "rows", epoch, block))
    return generator.permutation(size).astype(np.int64)


def _first_and_last(file: pq.ParquetFile, group: int) -> tuple[int, int]:
    """Lowest and highest row number of a row group, from the footer where it has statistics."""
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
        raise UserError(f"'{file}' holds rows whose {name} are not {length} long; pack them again.")
    values: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(table), length)


def _spans(table: pa.Table, length: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int8]]:
    """[rows, length] each: the number of the span that covers a token, -1 for padding, and its source."""
    spans = table.column("spans").combine_chunks()
    row = pc.list_parent_indices(spans).to_numpy()
    flat = spans.flatten()
    start, size = (flat.field(name).to_numpy().astype(np.int64) for name in ("start", "length"))
    firsts = np.searchsorted(row, np.arange(len(table)))  # the first span of each row
    kinds = pc.if_else(flat.field("unsafe"), "unsafe", flat.field("recipe"))
    kinds = pc.fill_null(pc.index_in(kinds, pa.array(SOURCES)), len(SOURCES) - 1).to_numpy()
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    places = np.repeat(row, size), np.repeat(start, size) + within
    document = np.full((len(table), length), -1, np.int16)
    source = np.full((len(table), length), len(SOURCES) - 1, np.int8)
    document[places] = np.repeat(np.arange(len(row)) - firsts[row], size)
    source[places] = np.repeat(kinds, size)
    return document, source
