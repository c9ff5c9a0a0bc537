"""Progress of a stage on one line: updated in place in a terminal, printed every ten seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray.core import filesystem

STARTING = "starting workers"
_BAR = 24
_TOKENS, _SECONDS = "reply_tokens", "reply_seconds"  # columns of an engine: see safety_ray/llm/engine.py


class Line:
    """A progress line such as `score ███░░ 1,204/3,400 rows 0:21`. `show` may be called at any rate.

    `waiting` is shown until the first row is done, for example "starting workers".
    """

    def __init__(self, label: str, total: int | None, unit: str = "rows", waiting: str = "") -> None:
        self.label, self.total, self.unit, self.waiting = label, total, unit, waiting
        self.start = time.monotonic()
        self.printed: float | None = None
        self.live = sys.stdout.isatty()

    def show(self, done: int, note: str = "", final: bool = False) -> None:
        """Print the line, unless the last print was a short time ago; `final` always prints."""
        now = time.monotonic()
        interval = 0.5 if self.live else 10.0
        if not final and self.printed is not None and now - self.printed < interval:
            return
        self.printed = now
        seconds = int(now - self.start)
        bar = remaining = ""
        if self.total:
            share = min(done / self.total, 1.0)
            bar = "█" * round(share * _BAR) + "░" * (_BAR - round(share * _BAR)) + " "
            if 0 < share < 1:
                eta = int(seconds * (1 - share) / share)
                remaining = f", {eta // 60}:{eta % 60:02} left"
        total = f"/{self.total:,}" if self.total else ""
        clock = f"{seconds // 60}:{seconds % 60:02}{remaining}"
        if not done and not final:
            note = ", ".join(part for part in (self.waiting, note) if part)
        text = f"  {self.label:<10} {bar}{done:,}{total} {self.unit}  {clock} {note}".rstrip()
        if self.live:
            print(f"\r\x1b[2K{text}", end="\n" if final else "", flush=True)
        else:
            print(text, flush=True)


@contextmanager
def watch(
    label: str,
    total: int | None,
    count: Callable[[], tuple[int, str]],
    unit: str = "rows",
    waiting: str = STARTING,
) -> Iterator[None]:
    """Show progress while the block runs. `count` returns (done, note) and is called every half second."""
    line, stop = Line(label, total, unit, waiting), threading.Event()

    def show_until_stopped() -> None:
        while True:
            with suppress(Exception):  # a file may be incomplete while it is written
                line.show(*count())
            if stop.wait(0.5):
                return

    thread = threading.Thread(target=show_until_stopped, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    line.show(*count(), final=True)


class RowCounter:
    """A counter of the rows in the Parquet files of a folder; each file is read once.

    The note has the share of rejected rows (files below `outcome=rejected`) and, if the rows come from an
    engine, the tokens that it generated per second since the counter was created.
    """

    def __init__(self, folder: str) -> None:
        self.fs, self.root = filesystem.find(folder)
        self.rows: dict[str, int] = {}
        self.tokens = 0
        self.start = time.monotonic()

    def __call__(self) -> tuple[int, str]:
        """Return (rows, note)."""
        if self.fs.exists(self.root):
            self.fs.invalidate_cache()
            for name in self.fs.find(self.root):
                if name.endswith(".parquet") and name not in self.rows:
                    with self.fs.open(name) as file:
                        self._add(name, pq.ParquetFile(file))
        return sum(self.rows.values()), self._note()

    def _add(self, name: str, file: pq.ParquetFile) -> None:
        if {_TOKENS, _SECONDS} <= set(file.schema_arrow.names):
            self.tokens += pc.sum(file.read([_TOKENS]).column(0)).as_py() or 0
        self.rows[name] = file.metadata.num_rows

    def _note(self) -> str:
        rejected = sum(rows for name, rows in self.rows.items() if "outcome=rejected/" in name)
        notes = []
        if rejected:
            notes.append(f"{rejected / sum(self.rows.values()):.0%} rejected")
        if self.tokens:
            notes.append(f"{self.tokens / (time.monotonic() - self.start):,.0f} tokens/s")
        return ", ".join(notes)
