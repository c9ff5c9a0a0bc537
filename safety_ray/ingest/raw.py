"""What a reader hands on: one record of a file, and where it stands there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Raw:
    """`value` is what stands there, or `problem` says why it is no document and `value` what is known."""

    file: str
    position: int
    """line number from 1 in JSONL, row number from 0 in Parquet, byte offset in an archive, 0 in HTML"""
    value: dict[str, Any] | None
    problem: str | None = None
