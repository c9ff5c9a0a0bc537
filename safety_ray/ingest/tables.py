"""JSONL and Parquet files: one record a line or row."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.core.errors import UserError
from safety_ray.ingest.columns import field_names
from safety_ray.ingest.raw import Raw
from safety_ray.ingest.source import Source
from safety_ray.ingest.unpack import Unpacked

_BATCH = 512
_FIRST = 100  # records in which a field of the column map must occur once


def read_jsonl(path: str, max_bytes: int) -> Iterator[Raw]:
    """The records of a JSONL file, plain or packed; positions are line numbers from 1."""
    position = 0
    with Unpacked(Source(path)) as unpacked:
        stream = io.BufferedReader(unpacked, 1 << 16)
        while True:
            position += 1
            line = stream.readline(max_bytes + 1)
            long = len(line) > max_bytes and not line.endswith(b"\n")
            if long:
                _skip_line(stream)
            if not line.endswith(b"\n") and unpacked.broken is not None and (long or not stream.peek(1)):
                yield Raw(path, position, None, f"the archive breaks off: {unpacked.broken.reason}")
                return
            if long:
                yield Raw(path, position, None, f"the line is longer than max_bytes={max_bytes}")
            elif not line:
                return
            elif line.strip():
                yield _parse(path, position, line)


def read_parquet(path: str) -> Iterator[Raw]:
    """The records of a Parquet file; positions are row numbers from 0."""
    position = 0
    with Source(path) as source:
        try:
            for batch in _parquet(path, source).iter_batches(_BATCH):
                for value in batch.to_pylist():
                    yield Raw(path, position, value)
                    position += 1
        except (pa.ArrowException, OSError) as error:  # a broken connection is a UserError of the source
            yield Raw(path, position, None, f"the Parquet file cannot be read further: {error}")


def first_fields(path: str, parquet: bool) -> set[str]:
    """Names of the first records' fields, nested ones with dots; UserError if it is no Parquet."""
    if not parquet:
        values = (raw.value for raw in read_jsonl(path, 1 << 26) if raw.value is not None)
        return set().union(*map(field_names, islice(values, _FIRST)))
    with Source(path) as source:
        return _arrow_names(_parquet(path, source).schema_arrow)


def _arrow_names(fields: Any, prefix: str = "") -> set[str]:
    names: set[str] = set()
    for field in fields:
        names.add(f"{prefix}{field.name}")
        if pa.types.is_struct(field.type):
            names |= _arrow_names(field.type, f"{prefix}{field.name}.")
    return names


def _parquet(path: str, source: Source) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"'{path}' is not a readable Parquet file: {error}.") from error


def _parse(path: str, position: int, line: bytes) -> Raw:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Raw(path, position, None, f"not UTF-8 at byte {error.start} of the line")
    except ValueError as error:
        return Raw(path, position, None, f"not JSON: {error}")
    if not isinstance(value, dict):
        return Raw(path, position, None, f"not a JSON object but {type(value).__name__}")
    return Raw(path, position, value)


def _skip_line(stream: io.BufferedReader | BinaryIO) -> None:
    while (part := stream.readline(1 << 20)) and not part.endswith(b"\n"):
        pass
