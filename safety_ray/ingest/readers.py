"""List the files of an input, detect their format, and read their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

from safety_ray.core import filesystem, partition
from safety_ray.core.errors import UserError
from safety_ray.core.worker_deaths import Alone, together
from safety_ray.ingest.pages import read_archive, read_html
from safety_ray.ingest.raw_record import RawRecord
from safety_ray.ingest.tables import first_fields, read_jsonl, read_parquet

Format = Literal["auto", "jsonl", "parquet", "warc", "wet", "html"]
FORMATS: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "wet": (".wet",),
    "warc": (".warc",),
    "html": (".html", ".htm", ".xhtml"),
}
COMPRESSED = (".gz", ".zst")
ENDINGS = tuple(
    ending + suffix
    for name, endings in FORMATS.items()
    for ending in endings
    for suffix in (("",) if name == "parquet" else ("", *COMPRESSED))
)
_THREADS = 16
_SAMPLES = (16, 256)


def format_of(path: str) -> str | None:
    """Return the format by a file's name, or None: `.warc.wet.gz` is WET, `.warc.wat.gz` is unknown."""
    name = path.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return next((kind for kind, endings in FORMATS.items() if name.endswith(endings)), None)


def list_files(path: str, format: str = "auto") -> list[str]:
    """Return the readable files of `path`: a file, folder or glob on any fsspec filesystem.

    With a `format` other than "auto" all files are assumed to have it. Raises UserError if the path does not
    exist, is empty, or has no file of a known format.
    """
    return list_files_and_others(path, format)[0]


def list_files_and_others(path: str, format: str = "auto") -> tuple[list[str], int]:
    """Return the result of `list_files`, and the number of other files, whose format is unknown."""
    fs, root = filesystem.find(path)
    try:
        files, exists = _all_files(fs, root)
    except Exception as error:  # each remote filesystem has its own exceptions
        message = f"{type(error).__name__}: {error}".rstrip(". ")
        raise UserError(f"the input '{path}' cannot be listed ({message}).") from error
    if not files:
        problem = "is an empty folder" if exists else "does not exist"
        raise UserError(f"the input '{path}' {problem}; give a file, a folder or a glob.")
    known = [name for name in files if format != "auto" or format_of(name)]
    if not known:
        raise UserError(
            f"'{files[0]}' has no known ending ({', '.join(ENDINGS)}); "
            f"if it has one of these formats, set format={'|'.join(get_args(Format)[1:])}."
        )
    if not any(fs.size(name) != 0 for name in known):  # some servers do not report a size
        raise UserError(f"the input '{path}' is empty: {known[0]} has no bytes.")
    return [fs.unstrip_protocol(name) if "://" in path else name for name in known], len(files) - len(known)


def _all_files(fs: Any, root: str) -> tuple[list[str], bool]:
    """Return all files at `root`, and whether `root` exists."""
    if any(c in root for c in "*?[") and not fs.exists(root):
        matches = fs.glob(root, detail=True)
        names = sorted(
            name
            for name, info in matches.items()
            if info["type"] == "file" or (info.get("islink") and fs.isfile(name))
        )
        return names, bool(names)
    if root.lower().endswith(ENDINGS) and fs.isfile(root):
        return [root], True  # a web server does not distinguish files from folders
    if fs.isdir(root):
        return sorted(n for n in fs.find(root) if not _hidden(n[len(root) :])), True
    return ([root], True) if fs.exists(root) else ([], False)


def is_table(path: str, format: str) -> bool:
    """Return whether the records of a file have fields: those of JSONL and Parquet."""
    return kind_of(path, format) in ("jsonl", "parquet")


def sample_fields(tables: list[str], format: str, needed: set[str]) -> tuple[set[str], int]:
    """Return the field names in the first records of some of the JSONL and Parquet files `tables`.

    Reads 16 files, or up to 256 if those do not have all `needed` fields, so that the time does not depend on
    the number of files. Returns the number of files read as well. Raises UserError if none of them is
    readable.
    """
    names_found: set[str] = set()
    sample: list[str] = []
    for size in _SAMPLES:
        sample = tables[:: -(-len(tables) // size)]
        with ThreadPoolExecutor(_THREADS) as pool:
            fields = list(pool.map(lambda file: _fields_or_error(file, format), sample))
        errors = [names for names in fields if isinstance(names, UserError)]
        if len(errors) == len(sample):
            raise errors[0]
        names_found = set().union(*(names for names in fields if not isinstance(names, UserError)))
        if names_found >= needed or len(sample) == len(tables):
            break
    return names_found, len(sample)


def _fields_or_error(file: str, format: str) -> set[str] | UserError:
    try:
        return first_fields(file, kind_of(file, format) == "parquet")
    except UserError as error:
        return error


def kind_of(path: str, format: str) -> str:
    """Return the format of a file: that of its name if `format` is "auto"."""
    return (format_of(path) or "") if format == "auto" else format


def read(
    path: str,
    max_bytes: int,
    format: str = "auto",
    extraction: str = "fast-recall",
    ignored: Counter[str] | None = None,
    alone: Alone = together,
    text_field: str = "text",
) -> Iterator[RawRecord]:
    """Read every record of one file, in order. A damaged record has a problem.

    Records of an archive whose type has no document are counted in `ignored`. Each page is announced to
    `alone` before its text is extracted. A Parquet file must have the `text_field`.
    """
    kind = kind_of(path, format)
    if kind == "parquet":
        return read_parquet(path, text_field)
    if kind == "jsonl":
        return read_jsonl(path, max_bytes)
    if kind == "html":
        return read_html(path, max_bytes, extraction, alone)
    return read_archive(path, max_bytes, extraction, Counter() if ignored is None else ignored, alone)


def _hidden(relative: str) -> bool:
    """Return whether a file is not data: Ray's and Spark's markers, and what a stage writes beside data/."""
    parts = relative.strip("/").split("/")
    if parts[0] == partition.FOLDER:  # each partition of a merged stage is an output folder
        parts = parts[2:]
    beside = ("rejected", "record.json", "config.json")
    return any(p.startswith((".", "_")) for p in parts) or parts[0] in beside
