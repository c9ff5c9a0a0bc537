"""Rows of Arrow batches as Python values, also if some of the values have none.

A Parquet file can hold strings that are not UTF-8, dates beyond the year 9999 and unknown time zones. They
raise various errors, for the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

Row = tuple[dict[str, Any], dict[str, str]]
"""the values of a row by column, and the reasons of those that are left out, with dots for nested fields"""


def to_rows(batch: pa.RecordBatch) -> Iterator[Row]:
    """Return the rows of `batch`. A value that Python cannot represent is left out."""
    try:
        yield from [(values, {}) for values in batch.to_pylist()]
        return
    except Exception:  # any type has its own errors, of pyarrow, pytz or pandas
        pass
    for row in zip(*batch.columns, strict=True):
        values: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for name, scalar in zip(batch.schema.names, row, strict=True):
            _read(scalar, name, name, values, problems)
        yield values, problems


def _read(scalar: Any, name: str, path: str, values: dict[str, Any], problems: dict[str, str]) -> None:
    try:
        values[name] = scalar.as_py()
    except Exception as error:
        if isinstance(scalar, pa.StructScalar):
            values[name] = {}
            for inner, field in scalar.items():
                _read(field, inner, f"{path}.{inner}", values[name], problems)
        else:
            problems[path] = f"{scalar.type}: {error}"
