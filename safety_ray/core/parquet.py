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
        damaged = paths[:1] if len(paths) == 1 else filter(_is_damaged, paths)
        path = next(iter(damaged), None) if _is_of_pyarrow(error) else None
        if path is None:
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"'{path}' is not a readable Parquet file: {reason}.") from error


def _is_of_pyarrow(error: Exception) -> bool:
    return not isinstance(error, OSError) or (type(error) is OSError and error.errno is None)


def _is_damaged(path: str) -> bool:
    fs, root = filesystem.find(path)
    with fs.open(root) as file:
        try:
            for _ in pq.ParquetFile(file).iter_batches():
                pass
        except (pa.ArrowInvalid, OSError) as error:
            return _is_of_pyarrow(error)
    return False
