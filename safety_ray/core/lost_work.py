"""Work that a stage lost because processes ended, which was then done again.

The entry `lost_work` of record.json. It is absent if nothing was lost. `workers`, `nodes` and `rows` are
those of the run that finished the stage; `runs` are earlier runs that ended, with their time (unfinished.py).
Training counts restarts and steps instead.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

KEY = "lost_work"


class LostWork:
    """Sums of lost work: `workers` that ended, `nodes` that were lost, `rows` processed again, `seconds`.

    `seconds` is the time from a start of a batch, a file or a request to the next start of the same. Of those
    that one process, or one node, worked on at the same time, the longest counts.
    """

    def __init__(self) -> None:
        self._ended: dict[str, dict[str, float]] = {"workers": {}, "nodes": {}}
        self.rows = 0

    def add(self, kind: str, id: str, rows: int, seconds: float) -> None:
        """Add a batch, file or request whose worker, or node if `kind` is "nodes", has ended."""
        ended = self._ended[kind]
        ended[id] = max(ended.get(id, 0.0), seconds)
        self.rows += rows

    def record(self) -> dict[str, Any]:
        """Return the sums, or {} if nothing was lost."""
        if not any(self._ended.values()):
            return {}
        return {
            **{kind: len(ids) for kind, ids in self._ended.items()},
            "rows": self.rows,
            "seconds": round(sum(sum(ended.values()) for ended in self._ended.values()), 1),
        }


def add_up(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of several records."""
    sums = Counter[str]()
    for record in records:
        sums.update(record)
    return {**sums, "seconds": round(sums["seconds"], 1)} if sums else {}


def describe(record: dict[str, Any]) -> str:
    """Return the lost work of a record as text: "lost work: 2 workers, 48 rows, 12.3 s", or ""."""
    lost: dict[str, Any] = record.get(KEY, {})
    counts = [
        f"{number:,} {name if number != 1 else name.removesuffix('s')}"
        for name, number in lost.items()
        if number and name != "seconds"
    ]
    return f"lost work: {', '.join(counts)}, {lost['seconds']} s" if counts else ""
