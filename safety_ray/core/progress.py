"""Progress of a stage on one line: updated in place in a terminal, printed every ten seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from safety_ray.core import filesystem, row_files

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
    """Show progress while the block runs. `count` returns (done, note).

    It is called every half second, or less often if it takes long, as for many files or on a remote
    filesystem: after twenty times the time that it took, and at least every 30 seconds.
    """
    line, stop = Line(label, total, unit, waiting), threading.Event()

    def show_until_stopped() -> None:
        while True:
            before = time.monotonic()
            with suppress(Exception):  # a file may be incomplete while it is written
                line.show(*count())
            if stop.wait(min(max(0.5, 20 * (time.monotonic() - before)), 30)):
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

    def __call__(self) -> tuple[int, str]:
        """Return (rows, note)."""
        for fs, root in self.places:
            if fs.exists(root):
                fs.invalidate_cache()
                new = [n for n in fs.find(root) if n.endswith(".parquet") and n not in self.rows]
                if new:
                    self._add(fs, new)
        return sum(self.rows.values()), self._note()

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

    def _note(self) -> str:
        rejected = sum(rows for name, rows in self.rows.items() if row_files.is_rejected(name))
        notes = []
        if rejected:
            notes.append(f"{rejected / sum(self.rows.values()):.0%} rejected")
        if self.tokens:
            notes.append(f"{self.tokens / (time.monotonic() - self.start):,.0f} tokens/s")
        return ", ".join(notes)
