"""Parquet files that cannot be read: an error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError


@contextmanager
def readable(*paths: str) -> Iterator[None]:
    """Raise UserError for what pyarrow raises in this context if a file is damaged or not Parquet.

    pyarrow does not say which file: if there are several `paths`, they are read until one raises as well.
    Other errors, such as those of a file system, are not changed.
    """
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        reason = damage(error)
        damaged = paths[:1] if len(paths) == 1 else filter(_is_damaged, paths)
        path = next(iter(damaged), None) if reason else None
        if path is None:
            raise
        raise UserError(f"'{path}' is not a readable Parquet file: {reason}.") from error


def damage(error: Exception) -> str | None:
    """Return why pyarrow could not read a file, or None if the error is not about the file's content."""
    if isinstance(error, OSError) and not (type(error) is OSError and error.errno is None):
        return None
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _is_damaged(path: str) -> bool:
    fs, root = filesystem.find(path)
    with fs.open(root) as file:
        try:
            for _ in pq.ParquetFile(file).iter_batches():
                pass
        except (pa.ArrowInvalid, OSError) as error:
            return damage(error) is not None
    return False
