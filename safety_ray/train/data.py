"""Random access to token rows, and the rows of each batch.

The batch of a step is a function of the seed and the step. Batches therefore do not depend on the number of
workers, and a resumed run only needs the number of its step.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray.core import filesystem, parquet, row_groups
from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError
from safety_ray.core.records import LEARN, stable_hash
from safety_ray.core.terms import SOURCES

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_NEEDED = ("row_length", "vocab_size", "tag", "tag_id")
_SPAN_FIELDS = ("start", "length", "recipe", "unsafe")
_CACHED_BYTES = 1 << 28
_BLOCK = row_groups.ROWS  # rows shuffled together from the second epoch on: they share a row group


class Rows(NamedTuple):
    """Token rows; each array has shape [rows, row length]."""

    ids: Ints
    learn: Bools  # whether a token is a target
    document: npt.NDArray[np.int16]  # index of the span in its row; -1 for padding
    source: npt.NDArray[np.int8]  # index in SOURCES


class TokenRows:
    """A folder of token rows with random access by row number.

    The constructor reads only the index of row groups (core/row_groups.py). `read` decodes the row groups of
    the requested rows, without the documents' ids, and expands the spans of these rows only.

    `decoded` is the number of row groups that were decoded. Raises UserError if the folder has no finished
    token rows or their numbers have gaps.
    """

    def __init__(self, path: str) -> None:
        record = read_record(path)
        if record is None or any(key not in record for key in _NEEDED):
            raise UserError(f"'{path}' has no token rows; give an output folder of the pack job.")
        self.path, self.record = path, record
        self.length, self.vocabulary = int(record["row_length"]), int(record["vocab_size"])
        self.tag_id = int(record["tag_id"])
        groups = row_groups.load(path)
        self._rows = row_groups.rows_in(groups)
        self._firsts: Ints = groups.column("first").to_numpy()
        self._files = groups.column("file").combine_chunks().dictionary_encode()
        self._groups = groups.column("group").to_numpy()
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self.decoded = 0

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
        group_of = np.searchsorted(self._firsts, numbers, side="right") - 1
        for g in np.unique(group_of):
            requested = np.flatnonzero(group_of == g)
            table = self._group(int(g)).take(pa.array(numbers[requested] - self._firsts[g]))
            part = self._expand(table, self._file(int(g)))
            rows.ids[requested], rows.learn[requested] = part.ids, part.learn
            rows.document[requested], rows.source[requested] = part.document, part.source
        return rows

    def batch(self, step: int, batch_rows: int, *, seed: int, rank: int = 0, world: int = 1) -> Rows:
        """Return the rows of `step` for worker `rank` of `world`; numbers of rows differ by at most one."""
        first, end = (step * batch_rows + n * batch_rows // world for n in (rank, rank + 1))
        return self.read(rows_at(np.arange(first, end), len(self), seed))

    def _file(self, g: int) -> str:
        return row_groups.file_path(self.path, self._files[g].as_py())

    def _group(self, g: int) -> pa.Table:
        """Return the rows of a row group, in their order."""
        if g in self._cache:
            self._cache.move_to_end(g)
            return self._cache[g]
        fs, name = filesystem.find(self._file(g))
        # pre_buffer joins the reads of all columns; a cache of the file would read far beyond them.
        with fs.open(name, cache_type="none") as handle, parquet.readable(name):
            file = pq.ParquetFile(handle, pre_buffer=True)
            table = file.read_row_group(int(self._groups[g]), columns=_columns(file)).combine_chunks()
        row = table.column("row").to_numpy()
        if (np.diff(row) < 0).any():
            table = table.sort_by("row")
        self.decoded += 1
        self._cache[g] = table.drop_columns(["row"])
        cached = sum(table.nbytes for table in self._cache.values())
        while len(self._cache) > 1 and cached > _CACHED_BYTES:
            cached -= self._cache.popitem(last=False)[1].nbytes
        return self._cache[g]

    def _expand(self, table: pa.Table, name: str) -> Rows:
        ids = _matrix(table, "input_ids", self.length, name)
        if len(ids) and not (ids.min() >= 0 and ids.max() < self.vocabulary):
            raise UserError(f"'{name}' has token ids outside the vocabulary of {self.vocabulary} tokens.")
        document, source = _spans(table, self.length)
        learn = document >= 0
        if LEARN in table.column_names:
            learn &= _matrix(table, LEARN, self.length, name).astype(np.bool_)
        return Rows(ids, learn, document, source)


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


def _columns(file: pq.ParquetFile) -> list[str]:
    """Return the columns to decode: not the ids of documents, which are most of the bytes of spans."""
    paths = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)]
    spans = [path for path in paths if path.startswith("spans.") and path.rsplit(".", 1)[1] in _SPAN_FIELDS]
    return ["row", "input_ids", *spans, *([LEARN] if LEARN in file.schema_arrow.names else [])]


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
    start, size = (flat.field(name).to_numpy() for name in ("start", "length"))
    first_spans = np.searchsorted(row, np.arange(len(table)))
    sources = pc.if_else(flat.field("unsafe"), "unsafe", flat.field("recipe"))
    sources = pc.fill_null(pc.index_in(sources, pa.array(SOURCES)), len(SOURCES) - 1).to_numpy()
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    tokens = np.repeat(row * length + start, size) + within
    document = np.full(len(table) * length, -1, np.int16)
    source = np.full(len(table) * length, len(SOURCES) - 1, np.int8)
    document[tokens] = np.repeat((np.arange(len(row)) - first_spans[row]).astype(np.int16), size)
    source[tokens] = np.repeat(sources.astype(np.int8), size)
    return document.reshape(-1, length), source.reshape(-1, length)
