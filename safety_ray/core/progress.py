"""Progress of a stage on one line: updated in place in a terminal, printed every ten seconds in a log.

The same numbers go to Prometheus (metrics.py) and, every ten seconds, to the structured log (events.py).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from safety_ray.core import events, filesystem, row_files, unfinished
from safety_ray.core.cost import Cost
from safety_ray.core.metrics import StageMetrics

STARTING = "starting workers"
_BAR = 24
_LOG_S = 10.0  # seconds between two lines of a log, and between two events
_STEP_S = 0.5  # seconds between two updates in a terminal, and of the metrics
_TOKENS, _SECONDS = "reply_tokens", "reply_seconds"  # columns of an engine: see safety_ray/llm/engine.py


class Done(NamedTuple):
    """The rows that a stage has done so far, interrupted runs included."""

    rows: int
    note: str = ""
    """text after the numbers of the line"""
    rejected: int = 0
    tokens: int = 0


class Line:
    """A progress line such as `score ███░░ 1,204/3,400 rows  0:21, 0:38 left, 57 rows/s, cost 0.12`.

    `show` may be called at any rate. `waiting` is shown until the first row is done, for example "starting
    workers". Rate and time left are those of this run: rows of an interrupted one took it no time. `first`:
    rows of interrupted runs; None: those of the first call of `show`. `saved`: whether rows that are done
    remain done if the run ends.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str = "rows",
        waiting: str = "",
        *,
        first: int | None = None,
        saved: bool = True,
    ) -> None:
        self.label, self.total, self.unit, self.waiting = label, total, unit, waiting
        self.start = time.monotonic()
        self.cost = Cost()
        self.first = first
        """rows of interrupted runs, or fewer if this run repeats some"""
        self.saved, self.done = saved, first or 0
        self.printed: float | None = None
        self.live = sys.stdout.isatty()
        self.measured: float | None = None
        """time of the last update of the metrics"""
        self.logged: float | None = None
        """time of the last event"""
        self.metrics = StageMetrics(events.stage(), label, total)
        if first is not None:
            self.metrics.update(rows=first, rejected=0, tokens=0, seconds=0.0, cost=0.0)
        events.emit("write_started", part=label, total=total)

    def show(
        self, done: int, note: str = "", final: bool = False, *, rejected: int = 0, tokens: int = 0
    ) -> None:
        """Print the line and send the numbers, unless that was done a short time ago; `final` always does."""
        now = time.monotonic()
        if self.saved and done > self.done:
            unfinished.saved()
        self.done = done
        self.first = done if self.first is None else min(self.first, done)
        if final or self.measured is None or now - self.measured >= _STEP_S:
            self.measured = now
            self._send(done, rejected, tokens, now, final)
        if final or self.printed is None or now - self.printed >= (_STEP_S if self.live else _LOG_S):
            self.printed = now
            self._print(done, note, now, final)

    def _send(self, rows: int, rejected: int, tokens: int, now: float, final: bool) -> None:
        seconds, cost = now - self.start, self.cost()
        self.metrics.update(rows=rows, rejected=rejected, tokens=tokens, seconds=seconds, cost=cost or 0.0)
        if final or self.logged is None or now - self.logged >= _LOG_S:
            self.logged = now
            numbers = {"rejected": rejected, "tokens": tokens, "seconds": round(seconds, 1)}
            events.emit(
                "write_finished" if final else "progress", part=self.label, done=rows, total=self.total,
                **numbers, **({} if cost is None else {"cost": round(cost, 4)}),
            )  # fmt: skip

    def _print(self, done: int, note: str, now: float, final: bool) -> None:
        seconds = int(now - self.start)
        bar = total = ""
        if self.total:
            share = min(done / self.total, 1.0)
            bar = "█" * round(share * _BAR) + "░" * (_BAR - round(share * _BAR)) + " "
            total = f"/{self.total:,}"
        notes = [f"{seconds // 60}:{seconds % 60:02}"]
        rate = (done - (self.first or 0)) / (now - self.start) if seconds else 0.0
        if rate and self.total and done < self.total:
            left = int((self.total - done) / rate)
            notes.append(f"{left // 60}:{left % 60:02} left")
        if rate:
            notes.append(f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s")
        if (cost := self.cost()) is not None:
            notes.append(f"cost {cost:,.2f}")
        if not done and not final:
            note = ", ".join(part for part in (self.waiting, note) if part)
        text = f"  {self.label:<10} {bar}{done:,}{total} {self.unit}  {', '.join(notes)} {note}".rstrip()
        if self.live:
            print(f"\r\x1b[2K{text}", end="\n" if final else "", flush=True)
        else:
            print(text, flush=True)


@contextmanager
def watch(
    label: str,
    total: int | None,
    count: Callable[[], Done],
    unit: str = "rows",
    waiting: str = STARTING,
    saved: bool = True,
) -> Iterator[None]:
    """Show progress while the block runs. `count` returns what is done. See `Line` for `saved`.

    It is called every half second, or less often if it takes long, as for many files or on a remote
    filesystem: after twenty times the time that it took, and at least every 30 seconds.
    """
    line, stop = Line(label, total, unit, waiting, saved=saved), threading.Event()

    def report(done: Done, final: bool = False) -> None:
        line.show(done.rows, done.note, final, rejected=done.rejected, tokens=done.tokens)

    def show_until_stopped() -> None:
        while True:
            before = time.monotonic()
            with suppress(Exception):  # a file may be incomplete while it is written
                report(count())
            if stop.wait(min(max(0.5, 20 * (time.monotonic() - before)), 30)):
                return

    thread = threading.Thread(target=show_until_stopped, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    report(count(), final=True)


class RowCounter:
    """Count the rows in the Parquet files of `folders`, by their names or else their footers, each once.

    The note has the share of rejected rows and, if the rows come from an engine, the tokens that it generated
    per second since the counter was created.
    """

    def __init__(self, *folders: str) -> None:
        self.places = [filesystem.find(folder) for folder in folders]
        self.rows: dict[str, int] = {}
        self.tokens = 0
        self.has_tokens: bool | None = None
        self.start = time.monotonic()
        self.first_tokens: int | None = None
        """tokens at the first call: those of interrupted runs"""

    def __call__(self) -> Done:
        """Return what is done."""
        for fs, root in self.places:
            if fs.exists(root):
                fs.invalidate_cache()
                new = [n for n in fs.find(root) if n.endswith(".parquet") and n not in self.rows]
                if new:
                    self._add(fs, new)
        self.first_tokens = self.tokens if self.first_tokens is None else self.first_tokens
        rejected = sum(rows for name, rows in self.rows.items() if row_files.is_rejected(name))
        return Done(sum(self.rows.values()), self._note(rejected), rejected, self.tokens)

    def _add(self, fs: Any, names: list[str]) -> None:
        """Count files. All files of a folder have the same columns, so one shows whether to add up tokens."""
        if self.has_tokens is None:
            with fs.open(names[0]) as file:
                self.has_tokens = {_TOKENS, _SECONDS} <= set(pq.read_schema(file).names)
        if self.has_tokens:
            paths = [name.split("://", 1)[-1] for name in names]
            data = pads.dataset(paths, filesystem=fs, format="parquet", partitioning=None)
            self.tokens += pc.sum(data.to_table(columns=[_TOKENS]).column(0)).as_py() or 0
        self.rows.update(row_files.rows_of(fs, names))

    def _note(self, rejected: int) -> str:
        notes = []
        if rejected:
            notes.append(f"{rejected / sum(self.rows.values()):.0%} rejected")
        if new := self.tokens - (self.first_tokens or 0):
            notes.append(f"{new / (time.monotonic() - self.start):,.0f} tokens/s")
        return ", ".join(notes)
