"""The filesystem of a path, local or remote."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
from fsspec.registry import known_implementations

from safety_ray.core.errors import UserError

_THREADS = 32


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


def states(fs: Any, listed: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """Return [name, size, time or ETag] of each file of a listing with details, sorted by path.

    Only links, and files whose size the listing does not have, as those of web servers, are asked for one by
    one.
    """
    paths = sorted(listed)
    unknown = [path for path in paths if listed[path].get("islink") or listed[path].get("size") is None]
    with ThreadPoolExecutor(_THREADS) as pool:
        infos = listed | dict(zip(unknown, pool.map(fs.info, unknown), strict=True))
    return {path: _state(path, infos[path]) for path in paths}


def _state(path: str, info: dict[str, Any]) -> list[Any]:
    changed = info.get("ETag") or info.get("mtime") or info.get("last_modified") or ""
    return [path.rsplit("/", 1)[-1], info.get("size"), str(changed)]


def remove(path: str) -> None:
    """Delete the file or folder `path`, if it exists."""
    fs, root = find(path)
    if fs.exists(root):
        fs.rm(root, recursive=True)
