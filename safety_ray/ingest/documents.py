"""A raw record becomes a document, or a reason why it is none."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa

from safety_ray.core.records import DOCUMENT, FINEWEB, schema, stable_hash
from safety_ray.ingest.columns import ColumnMap, renamed
from safety_ray.ingest.raw import Raw

OPTIONAL = pa.schema(
    [("label", pa.int8()), *((n, pa.string()) for n in ("category", "kind", "family", "split"))]
)
"""Columns kept with their type where the input has them; whatever else it has goes to `extra`."""

_ALWAYS = pa.schema(
    [
        *schema((*DOCUMENT, *FINEWEB)),
        ("extra", pa.string()),  # a JSON object of the fields that have no column of their own
        ("source_file", pa.string()),
        ("source_position", pa.int64()),
        ("rejected_reason", pa.string()),  # why the record is no document
    ]
)
_SURROGATE = re.compile("[\ud800-\udfff]")
TARGETS = [*(column.name for column in (*DOCUMENT, *FINEWEB)), *OPTIONAL.names]
"""The columns that a column map can fill."""


def row_schema(optional: list[str]) -> pa.Schema:
    """The columns of an ingested dataset whose input has the `optional` ones."""
    return pa.schema([*_ALWAYS, *(OPTIONAL.field(name) for name in optional)])


def to_row(raw: Raw, columns: pa.Schema, max_bytes: int, names: ColumnMap | None = None) -> dict[str, Any]:
    """The row of one record; `rejected` holds the reason where it is no document.

    A record without an id gets one of 16 hex digits: the 64-bit BLAKE2b hash of its URL (empty where
    it has none) and its text, so that it has the same one in every run, file and order. A record that
    is no document and has no id is called `<file>#<position>`.
    """
    row: dict[str, Any] = dict.fromkeys(columns.names)
    row |= {"source_file": raw.file, "source_position": raw.position}
    problem = raw.problem
    if raw.value is not None:
        wrong = _fill(row, dict(renamed(raw.value, names or {})), columns, max_bytes)
        problem = problem or wrong
    if problem:
        row |= {"id": row["id"] or f"{raw.file}#{raw.position}", "text": None, "rejected_reason": problem}
    return row


def _fill(row: dict[str, Any], value: dict[str, Any], columns: pa.Schema, max_bytes: int) -> str | None:
    text, given = value.pop("text", None), value.pop("id", None)
    row["id"] = _clean(str(given)) if given not in (None, "") else None
    for field in columns:
        if field.name in value and field.name not in _RESERVED:
            row[field.name] = _cast(value.pop(field.name), field.type)
    row["extra"] = json.dumps(value, ensure_ascii=True, default=str) if value else None
    if text is None:
        return "no text"
    if not isinstance(text, str):
        return f"text is not a string but {type(text).__name__}"
    if not text.strip():
        return "empty text"
    if _SURROGATE.search(text):
        return "text holds half a surrogate pair, which is not Unicode"
    if len(text.encode()) > max_bytes:
        return f"text is longer than max_bytes={max_bytes}"
    row["text"] = text
    # Without an id of its own a document is known by where and what it is.
    row["id"] = row["id"] or f"{stable_hash(row['url'] or '', text):016x}"
    return None


_RESERVED = ("id", "text", "extra", "source_file", "source_position", "rejected_reason")


def _cast(value: Any, kind: pa.DataType) -> Any:
    """A value as its column's type; one that does not fit is left out rather than the document."""
    if value is None:
        return None
    if pa.types.is_integer(kind):
        try:
            return int(pa.scalar(int(value), kind).as_py())
        except (TypeError, ValueError, pa.ArrowException):
            return None
    return _clean(value if isinstance(value, str) else str(value))


def _clean(text: str) -> str:
    return _SURROGATE.sub("�", text)


def mark_duplicates(rows: pa.Table) -> pa.Table:
    """Rejected all but the first (by file and position) row of each id.

    `rows` must hold every row of the ids in it. Rows that already have a reason keep it.
    """
    ordered = rows.sort_by([(name, "ascending") for name in ("id", "source_file", "source_position")])
    reasons = ordered.column("rejected_reason").to_pylist()
    ids = ordered.column("id").to_pylist()
    first: str | None = None
    for i, one in enumerate(ids):
        if reasons[i] is None:
            if one == first:
                reasons[i] = f"duplicate id '{one}'"
            first = one
    at = ordered.schema.get_field_index("rejected_reason")
    return ordered.set_column(at, "rejected_reason", pa.array(reasons, pa.string()))
