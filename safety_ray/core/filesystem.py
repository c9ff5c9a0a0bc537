"""The filesystem of a path, local or remote."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.registry import known_implementations

from safety_ray.core.errors import UserError

PART = ".part"
"""end of the name of a file that is not complete"""
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


def size(path: str) -> int:
    """Return the bytes of a file, or 0 if the server does not report them."""
    fs, root = find(path)
    return int(fs.size(root) or 0)


def is_local(path: str) -> bool:
    """Return whether `path` is on a filesystem of this machine, and no URL."""
    return "://" not in path


def write_file(fs: Any, path: str, content: bytes) -> None:
    """Write `content` under a name that ends in `PART`, then rename it: no reader sees an incomplete file."""
    fs.pipe_file(f"{path}{PART}", content)
    fs.mv(f"{path}{PART}", path)


@contextmanager
def written_at_once(path: str, last: str = "") -> Iterator[str]:
    """Yield a local folder whose files replace those of the folder or URL `path` at the end.

    A folder is renamed, after the earlier one has been deleted. To a URL the files are copied one by one, and
    the file named `last` is the last of them, so that it exists only if all others do.
    """
    if is_local(path):
        part = f"{path.rstrip('/')}{PART}"
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
        yield part
        shutil.rmtree(path, ignore_errors=True)
        os.rename(part, path)
        return
    with tempfile.TemporaryDirectory() as part:
        yield part
        fs, root = find(path)
        remove(path)
        files = [file for file in Path(part).rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: (file.name == last, file)):
            target = f"{root}/{file.relative_to(part).as_posix()}"
            fs.makedirs(posixpath.dirname(target), exist_ok=True)
            fs.put_file(str(file), target)


def local_copy(path: str) -> str:
    """Return a folder of this machine with the files of the URL `path`; a path that is no URL as it is.

    Files are downloaded once per machine and state of the URL, into ~/.cache/safety_ray or XDG_CACHE_HOME.
    Raises UserError if the URL has no files.
    """
    if is_local(path):
        return path
    fs, root = find(path)
    listed = fs.find(root, detail=True)
    if not listed:
        raise UserError(f"'{path}' does not exist.")
    key = hashlib.sha256(json.dumps([path, states(fs, listed)]).encode()).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safety_ray"
    caches.mkdir(parents=True, exist_ok=True)
    if not (caches / key).exists():
        with tempfile.TemporaryDirectory(dir=caches) as part:
            for name in listed:
                target = Path(part, key, name[len(root) :].lstrip("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(name, str(target))
            try:
                os.rename(Path(part, key), caches / key)
            except OSError:
                if not (caches / key).exists():  # else another process was faster
                    raise
    return str(caches / key)


def copy_files(source: str, target: str) -> None:
    """Copy the files of the folder `source` to the folder `target`, on the same filesystem.

    fsspec's own recursive move fails on object stores, which have no folders.
    """
    fs, root = find(source)
    copied = find(target)[1]

    def copy(name: str) -> None:
        place = f"{copied}/{name[len(root) :].lstrip('/')}"
        if fs.isdir(name):
            fs.makedirs(place, exist_ok=True)
        else:
            fs.makedirs(posixpath.dirname(place), exist_ok=True)
            fs.cp_file(name, place)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(copy, fs.find(root, withdirs=True)))  # raises what a copy raised


def remove(path: str) -> None:
    """Delete the file or folder `path`, if it exists."""
    fs, root = find(path)
    if fs.exists(root):
        fs.rm(root, recursive=True)
