"""A record of a file as its reader found it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRecord:
    """The content of a record, or a problem and the part of the content that is known."""

    file: str
    position: int
    """line number from 1 in JSONL, row number from 0 in Parquet, byte offset in an archive, 0 in HTML"""
    value: dict[str, Any] | None
    problem: str | None = None
    """the reason why the record is not a document"""
    unreadable: dict[str, str] = field(default_factory=dict)
    """fields that `value` lacks because they cannot be read, with the reasons"""
    damaged: bool = False
    """whether characters of the text may be wrong, although nothing was cut; the field `damaged` says why"""
    lost: int = 0
    """bytes of the file that could not be read: after the problem, or after the text of a damaged page"""
