"""A published label set: its reader, files, home, licence and how to get it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_ray.core.errors import UserError

Row = dict[str, Any]
"""id, text, label and label_max: the lowest and the highest level that the set's label can mean"""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of a label set."""

    path: str
    """relative to the folder `data`"""
    sha256: str | None
    """checksum of the file that the reader was written for; None: not checked"""
    unchecked_because: str = ""
    """the reason if `sha256` is None"""

    def __post_init__(self) -> None:
        if (self.sha256 is None) != bool(self.unchecked_because):
            raise ValueError(f"{self.path}: give either sha256 or unchecked_because.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """A published label set, declared next to its reader."""

    name: str
    contents: str
    """the kind of texts"""
    levels: str
    """the set's labels and the levels of harm that they can mean"""
    files: tuple[DataFile, ...]
    url: str
    licence: str
    how_to_get: str
    """one sentence"""
    read: Callable[[Path], Iterator[Row]]
    """yields the rows of the set, given the folder `data`"""

    def check_files(self, folder: Path) -> None:
        """Raise UserError if a file below `folder` is missing or has another checksum."""
        for file in self.files:
            path = folder / file.path
            if not path.is_file():
                raise self.error(f"the file '{path}' does not exist")
            if file.sha256 is None:
                continue
            with path.open("rb") as opened:
                sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            if sha256 != file.sha256:
                raise self.error(f"the file '{path}' has sha256 {sha256}, expected {file.sha256}")

    def error(self, problem: str) -> UserError:
        """Return the error for `problem`, with the set's home and how to get it."""
        return UserError(f"label set '{self.name}': {problem}. Home: {self.url}. {self.how_to_get}")
