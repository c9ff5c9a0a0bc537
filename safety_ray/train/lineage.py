"""Lineage of a model's data: the records of its inputs, recursively, if they can be read."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from safety_ray.core.artifact import read_record
from safety_ray.core.errors import UserError

_COUNTS = (("rows_in", "rows in"), ("rows_out", "out"), ("rejected", "rejected"))
_MAX_DEPTH = 12


def lineage(name: str, path: str, depth: int = 0) -> list[str]:
    """Return Markdown lines about the folder `path`, an input `name` of a stage, and its own inputs.

    An input whose folder cannot be read any more is listed with its recorded fingerprint.
    """
    record = _record(path)
    if record is None:
        return [f"{'  ' * depth}- {name} `{path}`: no readable record"]
    counts = ", ".join(f"{record[key]:,} {word}" for key, word in _COUNTS if key in record)
    lines = [f"{'  ' * depth}- {name} `{path}`: {counts}; fingerprint `{record['fingerprint']}`"]
    for inner, fingerprint in sorted(record["inputs"].items()):
        source = _input_path(record["config"], inner)
        input_record = _record(source) if source and depth < _MAX_DEPTH else None
        if input_record is None:
            where = f" `{source}`" if source else ""
            lines.append(f"{'  ' * (depth + 1)}- {inner}{where}: fingerprint `{fingerprint}`")
            continue
        first, *nested = lineage(inner, source, depth + 1)
        if input_record["fingerprint"] != fingerprint and not _is_model(source):
            first += f"; `{fingerprint}` when it was read"
        lines += [first, *nested]
    return lines


def _input_path(config: dict[str, Any], name: str) -> str:
    """Return the path in the setting `name`, or in `<name>.init` for a model."""
    value = config.get(name)
    if isinstance(value, dict):
        value = value.get("init")
    return value if isinstance(value, str) else ""


def _record(path: str) -> dict[str, Any] | None:
    """Return the record of a stage's folder, or of the training run that wrote a model's folder."""
    try:
        record = read_record(path)
        if record is None and _is_model(path):
            record = read_record(path.rstrip("/").rpartition("/")[0])
    except (UserError, OSError, ValueError):
        return None
    return record if record and {"inputs", "config", "fingerprint"} <= record.keys() else None


def _is_model(path: str) -> bool:
    return PurePosixPath(path).name == "model"
