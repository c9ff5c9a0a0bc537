"""The outputs of a finished run of the pipeline, without times and other values that differ between runs.

The classifier's probabilities depend in their last digits on the other texts of a batch, and a resumed stage
has other batches. So fractional numbers are compared with a tolerance, and everything else exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

COUNTS = ("rows_in", "rows_out", "rejected", "steps", "tags", "padding", "heldout", "final_loss")
_TOLERANCE = 0.01


class Rows:
    """The rows of the Parquet files of an output folder, in any order."""

    def __init__(self, folder: Path) -> None:
        self.fractions: dict[str, list[float]] = {}
        """fractional numbers of each row, by the hash of its other values"""
        self.times: Counter[str] = Counter()
        for kind in ("data", "rejected", "heldout"):
            files = sorted(map(str, (folder / kind).rglob("*.parquet")))
            if files:
                self._add(kind, pads.dataset(files, partitioning=None).to_table())

    def _add(self, kind: str, table: pa.Table) -> None:
        fractional = [field.name for field in table.schema if _is_fractional(field.type)]
        for row in table.to_pylist():
            numbers = [row.pop(name) for name in fractional]
            key = hashlib.sha256(json.dumps([kind, row], sort_keys=True, default=repr).encode()).hexdigest()
            self.times[key] += 1
            self.fractions[key] = np.ravel([n for n in numbers if n is not None]).tolist() if numbers else []

    def lost(self, other: Rows) -> int:
        """Return the number of rows that `other` lacks."""
        return (self.times - other.times).total()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Rows)
            and self.times == other.times
            and all(
                np.allclose(numbers, other.fractions[key], rtol=0, atol=_TOLERANCE)
                for key, numbers in self.fractions.items()
            )
        )


def contents(runs: Path) -> dict[str, Any]:
    """Return the rows, counts, losses and weights of each stage of a finished run."""
    found: dict[str, Any] = {}
    for record in sorted(runs.glob("*/record.json")):
        stage = record.parent
        values = json.loads(record.read_text())
        found[f"{stage.name}: rows"] = Rows(stage)
        found[f"{stage.name}: counts"] = {name: values.get(name) for name in COUNTS}
        for file in sorted(stage.glob("**/*.safetensors")):
            if "checkpoints" not in file.parts:
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                found[f"{stage.name}: {file.relative_to(stage)}"] = digest
    lines = (runs / "pretrain" / "metrics.jsonl").read_text().splitlines()
    found["pretrain: losses"] = [(line["step"], line["loss"]) for line in map(json.loads, lines)]
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the number of lost rows, and the names of what is not the same."""
    lost = sum(
        rows.lost(found[name]) if name in found else rows.times.total()
        for name, rows in expected.items()
        if isinstance(rows, Rows)
    )
    return lost, sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))


def repeated(seen: Path, stages: Collection[str]) -> tuple[int, int]:
    """Return the number of rows processed again, and of different rows; see driver.py.

    Raises ValueError if a stage has noted none: its workers call another function than the one that notes.
    """
    times: Counter[tuple[str, str]] = Counter()
    for file in seen.glob("*"):
        stage = file.name.split("-")[0]
        times.update((stage, id) for id in file.read_text().split("\n")[:-1])
    if silent := set(stages) - {stage for stage, _ in times}:
        raise ValueError(f"{seen} has no rows of {', '.join(sorted(silent))}.")
    return times.total() - len(times), len(times)


def _is_fractional(type: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type.value_type if pa.types.is_list(type) else type))
