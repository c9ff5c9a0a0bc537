"""Find rows whose processing ends the worker process, for example because it runs out of memory.

Ray repeats the work of a worker that has died, without a limit. So workers report the start and the end of
all work, a batch or a file, to an actor on the driver's node. Work that was started several times
and never ended is repeated row by row, and a row that was started alone several times is rejected.

The actor also adds up the work that was lost (see lost_work.py), for the record of the stage.

A worker whose whole node was lost did probably not die of its work, as on a preempted node. Such starts count
as deaths only if there are many, because a row may also take its machine down.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from safety_ray.core import cluster
from safety_ray.core.lost_work import LostWork, add_up

Alone = Callable[[str], AbstractContextManager[str | None]]
"""Announces one row, by a key. The value is None, or the reason why it must not be processed."""

BATCH_TRIES = ROW_TRIES = 2
LOST_NODES = 3
"""Lost nodes that count as one death"""
_REJECTED = f"its processing ended the worker process {ROW_TRIES} times, for example for want of memory"
_TOGETHER: AbstractContextManager[None] = nullcontext()


class _Turns:
    """Lets the threads of a worker process batches together, or one of them a row alone.

    If a batch of another thread ended the worker, the row would be counted as well.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = self._waiting = 0
        self._alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not (self._alone or self._waiting))
            self._open += 1
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not (self._alone or self._open))
                self._alone = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


_TURNS = _Turns()
_watches: list[Watch] = []
"""those of the stage that this driver runs"""


def begin_stage() -> None:
    """Forget the watches of the stage before."""
    _watches.clear()


def lost_in_stage() -> dict[str, Any]:
    """Return the work that the stage has lost since `begin_stage`, or {}."""
    return add_up([watch.lost_work() for watch in _watches]) if cluster.is_running() else {}


def together(key: str) -> AbstractContextManager[str | None]:
    """Process a row without announcing it. See `Alone`."""
    return _TOGETHER


@dataclass
class Start:
    """A start of work, on a node, in a worker process."""

    node: str
    worker: str = ""
    rows: int = 0
    time: float = field(default_factory=time.monotonic)


class Starts:
    """Actor: the starts of all work that has not ended."""

    def __init__(self) -> None:
        self.starts: dict[str, list[Start]] = {}
        self.lost: dict[str, LostWork] = {}
        """lost work of each watch, by its name"""

    def start(self, key: str, node: str, worker: str = "", rows: int = 0) -> int:
        """Note a start on a node. Returns the number of deaths: earlier starts without an end.

        With `worker`, an earlier start is lost work of the watch whose name begins the key.
        """
        earlier, new = self.starts.setdefault(key, []), Start(node, worker, rows)
        deaths = self._deaths(earlier, key.split()[0], new) if earlier else 0
        earlier.append(new)
        return deaths

    def _deaths(self, earlier: list[Start], watch: str, new: Start) -> int:
        alive = self._alive_nodes()
        last = earlier[-1]
        # The starts of a rejected row are kept, so the same worker may start it again.
        if new.worker and new.worker != last.worker:
            kind, id = ("workers", last.worker) if last.node in alive else ("nodes", last.node)
            self.lost.setdefault(watch, LostWork()).add(kind, id, last.rows, new.time - last.time)
        lost = sum(start.node not in alive for start in earlier)
        return len(earlier) - lost + lost // LOST_NODES

    def _alive_nodes(self) -> set[str]:
        return cluster.alive_nodes()

    def add_rows(self, key: str, rows: int) -> None:
        """Add rows to the last start of a key, for work whose rows are not known when it starts."""
        if starts := self.starts.get(key):
            starts[-1].rows += rows

    def end(self, key: str) -> None:
        self.starts.pop(key, None)

    def lost_work(self, watch: str) -> dict[str, Any]:
        """Return the lost work of a watch."""
        return self.lost.get(watch, LostWork()).record()


class Watch:
    """Starts and ends of the work of one stage: created by the driver, used in its workers."""

    def __init__(self, actor: Any = None) -> None:
        """`actor`: handle of an actor of a class that extends `Starts`; by default all stages share one."""
        self._actor: Any = actor or cluster.shared_actor(Starts)
        self._name = secrets.token_hex(4)  # keys of other stages may be the same
        _watches.append(self)

    def lost_work(self) -> dict[str, Any]:
        """Return the work of this watch that was lost, or {}."""
        lost: dict[str, Any] = cluster.result(self._actor.lost_work.remote(self._name))
        return lost

    @contextmanager
    def work(self, key: str) -> Iterator[int]:
        """Announce work while the block runs. The value is the number of times that it ended a worker."""
        deaths = self._start(key, rows=0)
        try:
            yield deaths
        finally:
            self.end(key)

    def add_rows(self, key: str, rows: int) -> None:
        """Tell how many more rows of work `key` have been processed: they are repeated if its worker ends."""
        self._actor.add_rows.remote(f"{self._name} {key}", rows)

    def announce(self, key: str, rows: int | None = None) -> Any:
        """Note a start. Returns the reference of the number of deaths, which can be awaited.

        Without `rows`, the work is part of other work, and never lost work of its own.
        """
        worker = "" if rows is None else cluster.this_worker()
        return self._actor.start.remote(f"{self._name} {key}", cluster.this_node(), worker, rows or 0)

    def end(self, key: str) -> Any:
        """Forget the starts of a key. Returns a reference that can be awaited."""
        return self._actor.end.remote(f"{self._name} {key}")

    def _start(self, key: str, rows: int | None = None) -> int:
        deaths: int = cluster.result(self.announce(key, rows))
        return deaths

    @contextmanager
    def alone(self, key: str) -> Iterator[str | None]:
        """Announce a row while the block runs, in which no other thread works. See `Alone`.

        The deaths of a rejected row are kept: if another row ends the worker, the same rows are repeated.
        """
        key = f"row {key}"
        with _TURNS.alone():
            rejected = self._start(key) >= ROW_TRIES
            try:
                yield _REJECTED if rejected else None
            finally:
                if not rejected:
                    self.end(key)

    def call(
        self,
        function: Callable[[pa.Table], pa.Table],
        batch: pa.Table,
        reject: Callable[[pa.Table, str], pa.Table],
    ) -> pa.Table:
        """Return `function(batch)`, with `reject(row, reason)` for each row that ends the worker."""
        if not len(batch):
            return function(batch)
        ids = batch.column("id")
        key = f"batch of {len(batch)} from {ids[0].as_py()}"
        try:
            with _TURNS.together():
                if self._start(key, rows=len(batch)) < BATCH_TRIES:
                    return function(batch)
            rows = []
            for n, id in enumerate(ids.to_pylist()):
                with self.alone(id) as reason:
                    row = batch.slice(n, 1)
                    rows.append(function(row) if reason is None else reject(row, reason))
        finally:
            self.end(key)
        return pa.concat_tables(rows, promote_options="default")
