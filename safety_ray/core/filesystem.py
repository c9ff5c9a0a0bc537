"""The filesystem a path lies on, local or remote; one sentence where it cannot be reached."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.registry import known_implementations

from safety_ray.core.errors import UserError


def find(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of `path` and the path in it: `s3://b/x` is `b/x` on S3, `x` is local.

    Raises UserError where the scheme is unknown, its package is not installed or no client can be made.
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
