"""Parquet files that no stage has written: their columns may differ from file to file.

The columns of a dataset are those of its first file. Another column of a later file would not be read, and
one that it lacks would end the job with an error of pyarrow. A sample of the files is checked before a stage
starts, and each file by the task that reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.core import parquet, row_files
from safety_ray.core.errors import UserError
from safety_ray.core.records import Column, require

HIDDEN = ("rejected_reason", "rejected_source")
"""Columns that only rejected rows use"""
_SAMPLE = _THREADS = 16
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.null())  # null: no row has a value
_ADVICE = "give all files the same columns, or run the ingest job on them first"


@dataclass(frozen=True, slots=True)
class Expected:
    """The columns that each file must have."""

    names: Collection[str]
    needed: tuple[Column, ...] = ()
    """columns whose type is checked as well"""
    schema: pa.Schema | None = None
    """all columns of the first file: others have the same ones, of the same types"""


def read_schema(path: str) -> pa.Schema:
    """Return the schema of a Parquet file."""
    with fsspec.open(path) as file, parquet.readable(path):
        return pq.read_schema(file)


def check_types(schema: pa.Schema, needed: tuple[Column, ...], where: str) -> None:
    """Raise UserError if a needed column is missing, or if one that must be text is not."""
    require(needed, [name for name in schema.names if name not in HIDDEN], where)
    for column in needed:
        kind = schema.field(column.name).type
        # Ids are sorted, which pyarrow cannot do with a dictionary.
        stored = kind.value_type if pa.types.is_dictionary(kind) and column.name != "id" else kind
        if column.type == pa.string() and stored not in _TEXT_TYPES:
            raise UserError(
                f"the column '{column.name}' of {where} must be text, not {kind}; convert it to strings, "
                "or run the ingest job on these files first, which does so."
            )


def check_sample(paths: list[str], expected: Expected) -> None:
    """Check the columns of at most 16 of the files."""
    foreign = [path for path in paths if _is_foreign(path)]
    sample = foreign[:: -(-len(foreign) // _SAMPLE)] if foreign else []
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda path: _check(path, expected), sample))  # raises what a check raised


@contextmanager
def readable(*paths: str, expected: Expected) -> Iterator[None]:
    """Check the columns of the files, and raise UserError in this context if one of them is damaged."""
    for path in filter(_is_foreign, paths):
        _check(path, expected)
    with parquet.readable(*paths):
        yield


def _is_foreign(path: str) -> bool:
    return row_files.rows_by_name(path) is None


def _check(path: str, expected: Expected) -> None:
    schema, where = read_schema(path), f"'{path}'"
    check_types(schema, expected.needed, where)
    for name in expected.names:
        if name not in schema.names:
            raise UserError(f"{where} has no column '{name}', which other files have; {_ADVICE}.")
    if expected.schema is None:
        return
    for field in schema:
        if field.name in HIDDEN:
            continue
        if field.name not in expected.names:
            raise UserError(f"{where} has a column '{field.name}', which other files lack; {_ADVICE}.")
        other = expected.schema.field(field.name).type
        if not _same(field.type, other):
            raise UserError(
                f"the column '{field.name}' of {where} is {field.type}, and that of other files is {other}; "
                f"{_ADVICE}."
            )


def _same(a: pa.DataType, b: pa.DataType) -> bool:
    """Return whether Ray can join columns of both types. Dictionaries and plain texts it cannot."""
    return a == b or pa.null() in (a, b) or (a in _TEXT_TYPES and b in _TEXT_TYPES)
