"""How far a stage is, on one line: a bar in a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow.compute as pc
import pyarrow.parquet as pq

from safety_ray.core import filesystem

_BAR = 24
_TOKENS, _SECONDS = "reply_tokens", "reply_seconds"  # an engine's: see safety_ray/llm/engine.py


class Line:
    """Prints `label ███░░ 1,204/3,400 rows 0:21`; call `show` as often as you like."""

    def __init__(self, label: str, total: int | None, unit: str = "rows") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.start = time.monotonic()
        self.last = 0.0
        self.live = sys.stdout.isatty()

    def show(self, done: int, note: str = "", final: bool = False) -> None:
        now = time.monotonic()
        if not final and now - self.last < (0.5 if self.live else 10.0):
            return
        self.last = now
        seconds = int(now - self.start)
        bar = left = ""
        if self.total:
            part = min(done / self.total, 1.0)
            bar = "█" * round(part * _BAR) + "░" * (_BAR - round(part * _BAR)) + " "
            if 0 < part < 1:
                eta = int(seconds * (1 - part) / part)
                left = f", {eta // 60}:{eta % 60:02} left"
        of = f"/{self.total:,}" if self.total else ""
        clock = f"{seconds // 60}:{seconds % 60:02}{left}"
        text = f"  {self.label:<10} {bar}{done:,}{of} {self.unit}  {clock} {note}"
        if self.live:
            print(f"\r\x1b[2K{text}", end="\n" if final else "", flush=True)
        else:
            print(text.rstrip(), flush=True)


@contextmanager
def watch(
    label: str, total: int | None, count: Callable[[], tuple[int, str]], unit: str = "rows"
) -> Iterator[None]:
    """Show progress while the block runs; `count` returns (done, note) and is asked every half second."""
    line, stop = Line(label, total, unit), threading.Event()

    def loop() -> None:
        while not stop.wait(0.5):
            try:
                line.show(*count())
            except Exception:  # a file that is being written: ask again next time
                continue

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    line.show(*count(), final=True)


class RowCounter:
    """Counts the rows in the Parquet files of a folder, reading each file once.

    Its note says what share was rejected (files below `outcome=rejected`), and where rows come
    from an engine, how many tokens it has written a second since the counter was made.
    """

    def __init__(self, folder: str) -> None:
        self.fs, self.root = filesystem.find(folder)
        self.rows: dict[str, int] = {}
        self.tokens = 0
        self.start = time.monotonic()

    def __call__(self) -> tuple[int, str]:
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
