"""Parquet files that cannot be read: an error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from safety_ray.core.errors import UserError


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Raise UserError for what pyarrow raises in this context if a file is damaged or not Parquet.

    Other errors, such as those of a file system, are not changed.
    """
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"'{path}' is not a readable Parquet file: {reason}.") from error
