"""Convert raw records to documents, or reject them with a reason."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

import pyarrow as pa

from safety_ray.core.records import DOCUMENT, FINEWEB, schema, stable_hash
from safety_ray.ingest.columns import ColumnMap, renamed
from safety_ray.ingest.raw_record import RawRecord

OPTIONAL = pa.schema(
    [("label", pa.int8()), *((n, pa.string()) for n in ("category", "kind", "family", "split"))]
)
"""Columns that are kept with their type if the input has them. All other fields go to `extra`."""

_ALWAYS = pa.schema(
    [
        *schema((*DOCUMENT, *FINEWEB)),
        ("extra", pa.string()),  # a JSON object of the fields without a column
        ("source_file", pa.string()),
        ("source_position", pa.int64()),
        ("rejected_reason", pa.string()),  # reason why the record is not a document
    ]
)
_SURROGATE = re.compile("[\ud800-\udfff]")
TARGETS = [*(column.name for column in (*DOCUMENT, *FINEWEB)), *OPTIONAL.names]
"""The columns that a column map can fill."""


def row_schema(optional: list[str]) -> pa.Schema:
    """Return the columns of an ingested dataset whose input has the `optional` columns."""
    return pa.schema([*_ALWAYS, *(OPTIONAL.field(name) for name in optional)])


def to_row(
    raw: RawRecord,
    columns: pa.Schema,
    max_bytes: int,
    names: ColumnMap | None = None,
    unreadable: Counter[str] | None = None,
) -> dict[str, Any]:
    """Return the row of one record. `rejected_reason` is the reason if the record is not a document.

    A record without an id gets one of 16 hex digits: the 64-bit BLAKE2b hash of its URL (or of an empty
    string) and its text, so that it is the same in every run, file and order. A rejected record without an id
    gets the id `<file>#<position>`. A value that cannot be read, or is not of its column's type, is left out:
    the field `unreadable` of `extra` has the reason, and the counter `unreadable` counts the values by field.
    """
    empty = dict.fromkeys(columns.names) | {
        "source_file": source_name(raw.file),
        "source_position": raw.position,
    }
    row, problem = dict(empty), raw.problem
    if raw.value is not None:
        left_out = dict(raw.unreadable)
        try:
            fill_problem = _fill(row, dict(renamed(raw.value, names or {})), columns, max_bytes, left_out)
            text_field = (names or {}).get("text", "text")
            if text_field in left_out:
                fill_problem = f"the text cannot be read ({left_out[text_field]})"
        except Exception as error:  # one record must not end the job
            row = dict(empty)
            fill_problem = f"the record cannot be read: {type(error).__name__}: {error}"
        problem = problem or fill_problem
        if unreadable is not None:
            unreadable.update(left_out.keys())
    if problem:
        id = row["id"] or f"{row['source_file']}#{raw.position}"
        row |= {"id": id, "text": None, "rejected_reason": _clean(problem)}
    return row


def _fill(
    row: dict[str, Any], value: dict[str, Any], columns: pa.Schema, max_bytes: int, unreadable: dict[str, str]
) -> str | None:
    """Fill the row from the record's fields. Returns the reason if the record has no usable text.

    Adds the reasons of values that are left out to `unreadable`.
    """
    # NaN is pandas' missing value.
    value = {name: None if _is_nan(inner) else inner for name, inner in value.items()}
    text, id = value.pop("text", None), value.pop("id", None)
    row["id"] = _clean(_to_string(id)) if id not in (None, "", b"") else None
    for field in columns:
        if field.name in value and field.name not in _RESERVED:
            original = value.pop(field.name)
            row[field.name] = _cast(original, field.type)
            if row[field.name] is None and original is not None:
                unreadable[field.name] = f"{str(original)[:100]!r} is not of type {field.type}"
    if unreadable:
        own = {"unreadable_": value.pop("unreadable")} if "unreadable" in value else {}
        value |= {"unreadable": unreadable, **own}
    row["extra"] = _to_json(value) if value else None
    if text is None:
        return "no text"
    if isinstance(text, bytes):  # some programs write text as bytes
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"text is not UTF-8 at byte {error.start}; it is a column of bytes"
    if not isinstance(text, str):
        return f"text is not a string but {type(text).__name__}"
    if not text.strip():
        return "empty text"
    if _SURROGATE.search(text):
        return "text has half a surrogate pair, which is not valid Unicode"
    if len(text.encode()) > max_bytes:
        return f"text is longer than max_bytes={max_bytes}"
    row["text"] = text
    # A document without an id is identified by its URL and text.
    row["id"] = row["id"] or f"{stable_hash(row['url'] or '', text):016x}"
    return None


_RESERVED = ("id", "text", "extra", "source_file", "source_position", "rejected_reason")


def _cast(value: Any, kind: pa.DataType) -> Any:
    """Convert a value to its column's type. A value that does not fit becomes null."""
    if value is None:
        return None
    if pa.types.is_integer(kind):
        try:
            number = int(pa.scalar(int(value), kind).as_py())
        except (TypeError, ValueError, OverflowError, pa.ArrowException):
            return None
        return None if isinstance(value, float) and number != value else number
    return _clean(_to_string(value))


def _to_string(value: Any) -> str:
    """Return a value as text: bytes as UTF-8, or as hexadecimal digits if they are not."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.hex()
    return str(value)


def _to_json(value: dict[str, Any]) -> str:
    """Return the JSON of a record. Numbers that JSON does not have (NaN, infinity) become null."""
    try:
        return json.dumps(value, default=_to_string, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=_to_string)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def source_name(file: str) -> str:
    """Return the name of an input file in the column `source_file`."""
    return _clean(file)


def _clean(text: str) -> str:
    return _SURROGATE.sub("�", text)
