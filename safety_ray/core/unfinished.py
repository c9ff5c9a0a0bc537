"""Unfinished runs of a stage, for `lost_work` in its record: those that ended before the stage was finished.

A killed driver cannot say what it lost. So while a stage runs, a thread of its driver writes
<output>/unfinished.json every ten seconds, for the next run:

    runs, seconds    earlier runs that ended, and the time that they lost
    unsaved          time since this run last saved something, which is lost if the run ends now
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from typing import Any

from safety_ray.core import filesystem

FILE = "unfinished.json"
EVERY_S = 10.0


class _Run:
    """The run of a stage in this process, and the thread that writes its file."""

    def __init__(self, path: str, earlier: dict[str, Any]) -> None:
        self.path, self.earlier = path, earlier
        self.saved = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_until_ended, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()  # so that no file is written afterwards

    def _write_until_ended(self) -> None:
        fs, root = filesystem.find(self.path)
        while not self._ended.wait(EVERY_S):
            values = {**self.earlier, "unsaved": round(time.monotonic() - self.saved, 1)}
            with suppress(Exception):  # the stage's own writes report a problem of the storage
                filesystem.write_file(fs, f"{root}/{FILE}", json.dumps(values).encode())


_run: _Run | None = None


def begin(path: str, *, resumed: bool) -> dict[str, Any]:
    """Begin a run of the stage that writes the folder `path`. Return the lost work of earlier runs, or {}."""
    global _run
    end()
    earlier: dict[str, Any] = {}
    if resumed:
        values = _read(path)
        seconds = values.get("seconds", 0.0) + values.get("unsaved", 0.0)
        earlier = {"runs": values.get("runs", 0) + 1, "seconds": round(seconds, 1)}
    _run = _Run(path, earlier)
    return earlier


def _read(path: str) -> dict[str, Any]:
    """Return what the last run has written, or {} if it ended before."""
    fs, root = filesystem.find(path)
    with suppress(OSError, ValueError):  # absent or incomplete
        values: dict[str, Any] = json.loads(fs.cat_file(f"{root}/{FILE}"))
        return values
    return {}


def saved() -> None:
    """Note that the stage has saved something: what it did until now is not lost if the run ends."""
    if _run is not None:
        _run.saved = time.monotonic()


def remove(path: str) -> None:
    """Remove the files of all runs of the finished folder `path`."""
    for name in (FILE, f"{FILE}{filesystem.PART}"):  # a killed run may have left the second one
        filesystem.remove(f"{path.rstrip('/')}/{name}")


def end() -> None:
    """End the run that this process has begun, if any."""
    global _run
    if _run is not None:
        _run.end()
    _run = None
