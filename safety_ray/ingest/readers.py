"""Which files an input names, what their format is, and what stands in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

from safety_ray.core import filesystem
from safety_ray.core.errors import UserError
from safety_ray.ingest.pages import read_archive, read_html
from safety_ray.ingest.raw import Raw
from safety_ray.ingest.tables import first_fields, read_jsonl, read_parquet

Format = Literal["auto", "jsonl", "parquet", "warc", "wet", "html"]
FORMATS: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "wet": (".wet",),
    "warc": (".warc",),
    "html": (".html", ".htm", ".xhtml"),
}
PACKED = (".gz", ".zst")
ENDINGS = tuple(
    end + packed
    for name, ends in FORMATS.items()
    for end in ends
    for packed in (("",) if name == "parquet" else ("", *PACKED))
)
_OPEN_AT_ONCE = 16


def format_of(path: str) -> str | None:
    """The format that a file's name tells, or None: `.warc.wet.gz` is WET, `.warc.wat.gz` none."""
    name = path.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return next((kind for kind, ends in FORMATS.items() if name.endswith(ends)), None)


def list_files(source: str, format: str = "auto") -> list[str]:
    """The readable files that `source` (file, folder or glob, on any fsspec filesystem) names.

    With a `format` other than "auto" all files are taken for that. Raises UserError where the
    source does not exist, is empty, or holds no file of a known kind.
    """
    return list_files_and_others(source, format)[0]


def list_files_and_others(source: str, format: str = "auto") -> tuple[list[str], int]:
    """`list_files`, and how many other files lie there whose names tell no format."""
    fs, root = filesystem.find(source)
    try:
        found, exists = _found(fs, root)
    except Exception as error:  # each remote filesystem has errors of its own
        what = f"{type(error).__name__}: {error}".rstrip(". ")
        raise UserError(f"the input '{source}' cannot be listed ({what}).") from error
    if not found:
        what = "is an empty folder" if exists else "does not exist"
        raise UserError(f"the input '{source}' {what}; give a file, a folder or a glob.")
    known = [n for n in found if format != "auto" or format_of(n)]
    if not known:
        raise UserError(
            f"'{found[0]}' has no known ending ({', '.join(ENDINGS)}); "
            f"if it is one of them, say so: format={'|'.join(get_args(Format)[1:])}."
        )
    if not any(fs.size(n) != 0 for n in known):  # some servers do not tell a size
        raise UserError(f"the input '{source}' is empty: {known[0]} has no bytes.")
    return [fs.unstrip_protocol(n) if "://" in source else n for n in known], len(found) - len(known)


def _found(fs: Any, root: str) -> tuple[list[str], bool]:
    """All files at `root`, and whether there is anything."""
    if any(c in root for c in "*?["):
        matches = sorted(n for n in fs.glob(root) if fs.isfile(n))
        return matches, bool(matches)
    if root.lower().endswith(ENDINGS) and fs.isfile(root):
        return [root], True  # a web server does not tell files from folders
    if fs.isdir(root):
        return sorted(n for n in fs.find(root) if not _hidden(n[len(root) :])), True
    return ([root], True) if fs.exists(root) else ([], False)


def fields(files: list[str], format: str) -> set[str]:
    """All names of fields in the first records of the JSONL and Parquet files among `files`.

    Raises UserError for a file that is named Parquet and is not.
    """
    kinds = {file: kind_of(file, format) for file in files}
    tables = [file for file, kind in kinds.items() if kind in ("jsonl", "parquet")]
    with ThreadPoolExecutor(_OPEN_AT_ONCE) as pool:
        return set().union(*pool.map(lambda file: first_fields(file, kinds[file] == "parquet"), tables))


def kind_of(path: str, format: str) -> str:
    return (format_of(path) or "") if format == "auto" else format


def read(
    path: str,
    max_bytes: int,
    format: str = "auto",
    extraction: str = "fast-recall",
    ignored: Counter[str] | None = None,
) -> Iterator[Raw]:
    """Every record of one file, in order; a broken one carries its problem.

    Records of an archive that hold no document by their type are counted in `ignored`.
    """
    kind = kind_of(path, format)
    if kind == "parquet":
        return read_parquet(path)
    if kind == "jsonl":
        return read_jsonl(path, max_bytes)
    if kind == "html":
        return read_html(path, max_bytes, extraction)
    return read_archive(path, max_bytes, extraction, Counter() if ignored is None else ignored)


def _hidden(relative: str) -> bool:
    """Return whether a file is not data: Ray's and Spark's markers, and what a stage writes beside data/."""
    parts = relative.strip("/").split("/")
    return any(p.startswith((".", "_")) for p in parts) or parts[0] in (
        "rejected",
        "set_aside",  # the name of rejected/ in earlier versions
        "record.json",
        "config.json",
    )
