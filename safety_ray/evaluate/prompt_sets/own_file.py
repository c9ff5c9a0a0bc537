"""A file of prompts of one's own: .csv, .jsonl or .parquet, local or at a URL (s3://, hf://datasets/)."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError, nearest
from safety_ray.evaluate.prompt_sets.prompt_set import Columns, Prompt, parse_table, to_prompts

SUFFIXES = (".csv", ".jsonl", ".parquet")
_NAMES = [field.name for field in fields(Columns) if field.name != "kinds"]


def is_file(name: str) -> bool:
    """Return whether `name` is a file, and not the name of a published set."""
    return name.endswith(SUFFIXES)


def title(name: str) -> str:
    """Return the name of the file without folders and suffix."""
    return posixpath.splitext(posixpath.basename(name.replace("\\", "/")))[0]


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise UserError if a key of `columns` is none of prompt, id, group and kind."""
    for key in columns:
        if key not in _NAMES:
            raise UserError(
                f"prompt_columns: unknown key '{key}'; the nearest is '{nearest(key, _NAMES)}' (choose from "
                f"{', '.join(_NAMES)})."
            )


def prompts(name: str, columns: Mapping[str, str]) -> list[Prompt]:
    """Return the prompts of the file or URL `name`; `columns` has the names of its columns that differ.

    Raises UserError if the file does not exist, cannot be read or has a row without a prompt.
    """
    fs, path = filesystem.find(name)
    if not fs.isfile(path):
        raise UserError(f"prompt_sets: the file '{name}' does not exist.")
    rows = _rows(name, fs.cat_file(path))
    present = {str(column) for row in rows for column in row}
    for key, column in columns.items():
        if rows and column not in present:
            raise UserError(
                f"prompt_columns.{key}={column}: '{name}' has no such column; it has "
                f"{', '.join(sorted(present))}."
            )
    return to_prompts(title(name), rows, Columns(**dict[str, Any](columns)), f"'{name}'")


def _rows(name: str, data: bytes) -> list[dict[str, Any]]:
    if not name.endswith(".parquet"):
        return parse_table(name, data)
    try:
        rows: list[dict[str, Any]] = pq.ParquetFile(pa.BufferReader(data)).read().to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"'{name}' is not a Parquet file: {str(error).splitlines()[0]}") from error
    return rows
