"""A published label set: its reader, files, home, licence and how to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safety_ray.core.published import DataFile, PublishedData

__all__ = ["DataFile", "LabelSet", "Row"]

Row = dict[str, Any]
"""id, text, label and label_max: the lowest and the highest level that the set's label can mean"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet(PublishedData):
    """A published label set, declared next to its reader."""

    noun: ClassVar[str] = "label set"
    levels: str
    """the set's labels and the levels of harm that they can mean"""
    read: Callable[[Path], Iterator[Row]]
    """yields the rows of the set, given the folder `data`"""
