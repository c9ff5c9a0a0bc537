"""A gate that the workers of a job come to: a test decides how many of them pass, and sees which wait."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ALL = 10**9


def allow(folder: Path, number: int) -> None:
    """In the test: let `number` pass in total, those that have already passed included.

    In score_job.py, these are rows, and each actor may score up to a batch more.
    """
    folder.mkdir(exist_ok=True)
    new = folder / "allowed.new"
    new.write_text(str(number))
    new.replace(folder / "allowed")


def come(folder: Path) -> None:
    """In a worker: wait until this process may pass. They pass in the order in which they have come."""
    for number in itertools.count():
        with suppress(FileExistsError):
            (folder / str(number)).symlink_to(str(os.getpid()))  # appears at once, with its content
            break
    while number >= _allowed(folder):
        time.sleep(0.1)


def gated(function: Any, folder: Path) -> Any:
    """In the job: return `function`, whose callers come to the gate `folder` before."""

    def call(*args: Any, **settings: Any) -> Any:
        come(folder)
        return function(*args, **settings)

    return call


def waiting(folder: Path) -> set[int]:
    """In the test: return the ids of the processes that may not pass yet, or were killed before."""
    places = [path for path in folder.iterdir() if path.is_symlink() and int(path.name) >= _allowed(folder)]
    return {int(os.readlink(path)) for path in places}


def _allowed(folder: Path) -> int:
    return int((folder / "allowed").read_text())
