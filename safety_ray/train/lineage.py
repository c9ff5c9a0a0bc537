"""Where a model's data came from: the records of its inputs, and of theirs, as far as they can be read."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError

_COUNTS = (("rows_in", "rows in"), ("rows_out", "out"), ("rejected", "rejected"))
_DEEP = 12  # stages there can be one behind the other


def lineage(name: str, path: str, depth: int = 0) -> list[str]:
    """Markdown lines: the folder `path` that a stage knew as `name`, and below it what it was made from.

    An input whose folder cannot be read any more is named with the fingerprint it had.
    """
    record = _record(path)
    if record is None:
        return [f"{'  ' * depth}- {name} `{path}`: no record that can be read"]
    counts = ", ".join(f"{record[key]:,} {word}" for key, word in _COUNTS if key in record)
    lines = [f"{'  ' * depth}- {name} `{path}`: {counts}; fingerprint `{record['fingerprint']}`"]
    for inner, mark in sorted(record["inputs"].items()):
        source = _path(record["config"], inner)
        below = _record(source) if source and depth < _DEEP else None
        if below is None:
            where = f" `{source}`" if source else ""
            lines.append(f"{'  ' * (depth + 1)}- {inner}{where}: fingerprint `{mark}`")
            continue
        lines += lineage(inner, source, depth + 1)
        if below["fingerprint"] != mark and not _is_model(source):
            lines[-1] += f"; it was `{mark}` when it was read"
    return lines


def _path(config: dict[str, Any], name: str) -> str:
    """The path that the setting `name` held; a model's may be one level down."""
    value = config.get(name)
    if isinstance(value, dict):
        value = value.get("init")
    return value if isinstance(value, str) else ""


def _record(path: str) -> dict[str, Any] | None:
    """The record of a stage's folder, or of the training whose model it is."""
    try:
        record = read_record(path)
        if record is None and _is_model(path):
            record = read_record(str(PurePosixPath(path).parent))
    except (UserError, OSError, ValueError):
        return None
    return record if record and {"inputs", "config", "fingerprint"} <= record.keys() else None


def _is_model(path: str) -> bool:
    return PurePosixPath(path).name == "model"
