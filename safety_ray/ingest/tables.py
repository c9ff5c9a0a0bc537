"""Read JSONL and Parquet files: one record for each line or row."""

from __future__ import annotations

import codecs
import io
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.core import parquet
from safety_ray.core.arrow_rows import to_rows
from safety_ray.core.errors import UserError
from safety_ray.ingest.columns import field_names
from safety_ray.ingest.raw_record import RawRecord
from safety_ray.ingest.resumable_file import ResumableFile
from safety_ray.ingest.unpack import UnpackedFile

_BATCH_ROWS = 512
_SAMPLE_RECORDS = 100
"""number of first records in which a field of the column map must occur"""


def read_jsonl(path: str, max_bytes: int) -> Iterator[RawRecord]:
    """Read the records of a JSONL file, compressed or not. Positions are line numbers from 1."""
    position = 0
    with UnpackedFile(ResumableFile(path)) as unpacked:
        stream = io.BufferedReader(unpacked, 1 << 16)
        while True:
            position += 1
            line = stream.readline(max_bytes + 1)
            too_long = len(line) > max_bytes and not line.endswith(b"\n")
            if too_long:
                _skip_line(stream)
            line = line.removeprefix(codecs.BOM_UTF8) if position == 1 else line
            if not line.endswith(b"\n") and unpacked.damage is not None and (too_long or not stream.peek(1)):
                damage = unpacked.damage
                last = _parse(path, position, line)
                if last.problem is None and not too_long:  # it lacks only its end of line
                    yield last
                    position += 1
                yield RawRecord(
                    path, position, None, f"the file is damaged: {damage.reason}", lost=damage.lost
                )
                return
            if too_long:
                yield RawRecord(path, position, None, f"the line is longer than max_bytes={max_bytes}")
            elif not line:
                return
            elif line.strip():
                yield _parse(path, position, line)


def read_parquet(path: str, text_field: str) -> Iterator[RawRecord]:
    """Read the records of a Parquet file. Positions are row numbers from 0.

    Of a damaged row group, the rows of the batches before the damage are read. A file that is not readable,
    or has no `text_field`, is one record with a problem, and all its bytes are lost.
    """
    start = 0
    with ResumableFile(path) as file:
        try:
            parquet_file = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            reason = parquet.damage(error)
            if reason is None:
                raise
            problem = f"the file is not a readable Parquet file: {reason}"
            yield RawRecord(path, 0, None, problem, lost=file.size())
            return
        if (unusable := _schema_problem(parquet_file, text_field)) is not None:
            yield RawRecord(path, 0, None, unusable, lost=file.size())
            return
        for number in range(parquet_file.num_row_groups):
            group = parquet_file.metadata.row_group(number)
            position = start
            try:
                for batch in parquet_file.iter_batches(_BATCH_ROWS, [number]):
                    for value, unreadable in to_rows(batch):
                        yield RawRecord(path, position, value, unreadable=unreadable)
                        position += 1
            except UserError:  # a broken connection
                raise
            except Exception as error:
                problem = f"the rest of this row group of the Parquet file cannot be read: {error}"
                yield RawRecord(path, position, None, problem, lost=_size(group))
            start += group.num_rows


def _schema_problem(file: pq.ParquetFile, text_field: str) -> str | None:
    names = file.schema_arrow.names
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        return f"the file, with {file.metadata.num_rows:,} rows, has several columns named '{repeated[0]}'"
    if text_field not in _arrow_names(file.schema_arrow):
        rows = file.metadata.num_rows
        return f"the file, with {rows:,} rows, has no field '{text_field}'; it has {', '.join(names)}"
    return None


def first_fields(path: str, is_parquet: bool) -> set[str]:
    """Return the field names of the first records, nested ones with dots.

    Raises UserError if a Parquet file is unreadable.
    """
    if not is_parquet:
        values = (raw.value for raw in read_jsonl(path, 1 << 26) if raw.value is not None)
        return set().union(*map(_json_names, islice(values, _SAMPLE_RECORDS)))
    with ResumableFile(path) as file, parquet.readable(path):
        return _arrow_names(pq.ParquetFile(file).schema_arrow)


def _json_names(value: dict[str, Any]) -> set[str]:
    try:
        return field_names(value)
    except RecursionError:
        return set(value)


def _arrow_names(fields: Any, prefix: str = "") -> set[str]:
    names: set[str] = set()
    for field in fields:
        names.add(f"{prefix}{field.name}")
        if pa.types.is_struct(field.type):
            names |= _arrow_names(field.type, f"{prefix}{field.name}.")
    return names


def _size(group: pq.RowGroupMetaData) -> int:
    return sum(group.column(n).total_compressed_size for n in range(group.num_columns))


def _parse(path: str, position: int, line: bytes) -> RawRecord:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RawRecord(path, position, None, f"not UTF-8 at byte {error.start} of the line")
    except (ValueError, RecursionError) as error:
        return RawRecord(path, position, None, f"not JSON: {error}")
    if not isinstance(value, dict):
        return RawRecord(path, position, None, f"not a JSON object but {type(value).__name__}")
    return RawRecord(path, position, value)


def _skip_line(stream: io.BufferedReader | BinaryIO) -> None:
    while (data := stream.readline(1 << 20)) and not data.endswith(b"\n"):
        pass
