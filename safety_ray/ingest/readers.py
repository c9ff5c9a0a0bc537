"""Files to raw records: what stands in a file, and where; nothing is judged here."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from safety_ray.errors import UserError

JSONL = (".jsonl", ".json", ".ndjson")
PACKED = (".gz", ".zst")
PARQUET = (".parquet",)
ENDINGS = (*PARQUET, *JSONL, *(j + p for j in JSONL for p in PACKED))
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Raw:
    """One record of a file: `value` is what stands there, or `problem` says why it cannot be read."""

    file: str
    position: int
    """line number from 1, or row number from 0 in Parquet"""
    value: dict[str, Any] | None
    problem: str | None = None


def list_files(source: str) -> list[str]:
    """The readable files that `source` (file, folder or glob, on any fsspec filesystem) names.

    Raises UserError where it does not exist, is empty, or holds no file of a known kind.
    """
    fs, root = fsspec.core.url_to_fs(source)
    if any(c in root for c in "*?["):
        found = sorted(n for n in fs.glob(root) if fs.isfile(n))
    elif fs.isdir(root):
        found = sorted(n for n in fs.find(root) if not _hidden(n[len(root) :]))
    else:
        found = [root] if fs.exists(root) else []
    if not found:
        what = "is an empty folder" if fs.exists(root) else "does not exist"
        raise UserError(f"the input '{source}' {what}; give a file, a folder or a glob.")
    known = [n for n in found if n.endswith(ENDINGS)]
    if not known:
        raise UserError(f"'{found[0]}' is neither Parquet nor JSONL; known endings: {', '.join(ENDINGS)}.")
    if not any(fs.size(n) for n in known):
        raise UserError(f"the input '{source}' is empty: {known[0]} has no bytes.")
    return [fs.unstrip_protocol(n) if "://" in source else n for n in known]


def read(path: str, max_bytes: int) -> Iterator[Raw]:
    """Every record of one file, in order; a broken one carries its problem."""
    return _read_parquet(path) if path.endswith(PARQUET) else _read_jsonl(path, max_bytes)


def first_keys(path: str) -> set[str]:
    """The names of the first readable record's fields."""
    if path.endswith(PARQUET):
        return set(_parquet(path).schema_arrow.names)
    return next((set(raw.value) for raw in _read_jsonl(path, 1 << 26) if raw.value is not None), set())


def check_parquet(path: str) -> None:
    """UserError where `path` is no Parquet file, before any work starts."""
    if path.endswith(PARQUET):
        _parquet(path)


def _parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(fsspec.open(path).open())
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"'{path}' is not a readable Parquet file: {error}.") from error


def _read_parquet(path: str) -> Iterator[Raw]:
    position = 0
    try:
        for batch in _parquet(path).iter_batches(_BATCH):
            for value in batch.to_pylist():
                yield Raw(path, position, value)
                position += 1
    except (pa.ArrowException, OSError) as error:
        yield Raw(path, position, None, f"the Parquet file cannot be read further: {error}")


def _read_jsonl(path: str, max_bytes: int) -> Iterator[Raw]:
    position = 0
    with fsspec.open(path, "rb") as file:
        stream = _unpacked(path, file)
        while True:
            position += 1
            try:
                line = stream.readline(max_bytes + 1)
                if len(line) > max_bytes and not line.endswith(b"\n"):
                    _skip_line(stream)
                    yield Raw(path, position, None, f"the line is longer than max_bytes={max_bytes}")
                    continue
            except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
                yield Raw(path, position, None, f"the archive breaks off: {error}")
                return
            if not line:
                return
            if line.strip():
                yield _parse(path, position, line)


def _parse(path: str, position: int, line: bytes) -> Raw:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Raw(path, position, None, f"not UTF-8 at byte {error.start} of the line")
    except ValueError as error:
        return Raw(path, position, None, f"not JSON: {error}")
    if not isinstance(value, dict):
        return Raw(path, position, None, f"not a JSON object but {type(value).__name__}")
    return Raw(path, position, value)


def _skip_line(stream: io.BufferedReader | BinaryIO) -> None:
    while (part := stream.readline(1 << 20)) and not part.endswith(b"\n"):
        pass


def _unpacked(path: str, file: Any) -> Any:
    if path.endswith(".gz"):
        return gzip.GzipFile(fileobj=file)
    if path.endswith(".zst"):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
    return file


def _hidden(relative: str) -> bool:
    """Ray and Spark leave _SUCCESS and .crc files; a stage's set_aside/ is not its data."""
    parts = relative.strip("/").split("/")
    return any(p.startswith((".", "_")) for p in parts) or parts[0] in (
        "set_aside",
        "record.json",
        "config.json",
    )
