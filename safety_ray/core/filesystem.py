"""The filesystem of a path, local or remote."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.registry import known_implementations

from safety_ray.core.errors import UserError


def find(path: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of `path` and the path in it: `b/x` on S3 for `s3://b/x`.

    Raises UserError if the scheme is unknown, its package is not installed or its client cannot be created.
    """
    scheme = path.split("://", 1)[0]
    try:
        fs, root = fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = known_implementations.get(scheme, {}).get("class", "fsspec").split(".")[0]
        missing = f"install {package}" if package != "fsspec" else str(error)
        raise UserError(f"'{path}' needs a package that is not installed: {missing}.") from error
    except ValueError as error:
        raise UserError(f"'{path}' cannot be reached: {error}.") from error
    return fs, str(root)


def remove(path: str) -> None:
    """Delete the file or folder `path`, if it exists."""
    fs, root = find(path)
    if fs.exists(root):
        fs.rm(root, recursive=True)
