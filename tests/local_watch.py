"""A watch of rows that end their workers, without Ray."""

from __future__ import annotations

from safety_ray.core.worker_deaths import Starts, Watch

HERE, LOST = "node 1", "node 2"


class LocalStarts(Starts):
    """Starts on two nodes, of which one was lost."""

    def _alive_nodes(self) -> set[str]:
        return {HERE}


class LocalWatch(Watch):
    """A watch whose actor is an object of this process."""

    def __init__(self) -> None:
        self.starts = LocalStarts()

    def _start(self, key: str, rows: int | None = None) -> int:
        return self.starts.start(key, HERE, "" if rows is None else "this worker", rows or 0)

    def end(self, key: str) -> None:
        self.starts.end(key)

    def die(self, key: str, times: int, node: str = HERE) -> None:
        """Count `times` starts of `key` that never ended."""
        for _ in range(times):
            self.starts.start(key, node)
