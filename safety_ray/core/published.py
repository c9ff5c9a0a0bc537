"""Published data that the project reads but does not ship: files with checksums, home and licence."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safety_ray.core.errors import UserError


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of published data."""

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
class PublishedData:
    """The declaration of published data, next to its reader."""

    noun: ClassVar[str] = "data"
    """its kind, for messages"""
    name: str
    contents: str
    """the kind of texts"""
    files: tuple[DataFile, ...]
    url: str
    licence: str
    how_to_get: str
    """one sentence"""

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
        """Return the error for `problem`, with the data's home and how to get it."""
        return UserError(f"{self.noun} '{self.name}': {problem}. Home: {self.url}. {self.how_to_get}")
