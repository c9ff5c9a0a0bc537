"""Structured log of a run: one JSON line for each event, where SAFETY_RAY_EVENTS says.

    SAFETY_RAY_EVENTS=-            standard error
    SAFETY_RAY_EVENTS=run.jsonl    appended to this file

    stage_started, stage_resumed, stage_skipped    output
    write_started                                  part, total
    progress                                       part, done, total, rejected, tokens, seconds, cost
    write_finished                                 the same
    stage_finished                                 output, rows_in, rows_out, rejected, seconds, lost_work
    job_failed                                     error: a user error's message, or the name of an exception

Each line also has `time`, `event`, `stage`, `host` and `pid`. No line has settings.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import sys
from typing import Any

VARIABLE = "SAFETY_RAY_EVENTS"
_current = {"stage": ""}


def set_stage(name: str) -> None:
    """Name the stage of the events and metrics that follow. A process runs one stage at a time."""
    _current["stage"] = name


def stage() -> str:
    """Return the name of the stage that began last; empty before the first one."""
    return _current["stage"]


def emit(event: str, **values: Any) -> None:
    """Write one line, if SAFETY_RAY_EVENTS is set. A log that cannot be written never stops a stage."""
    target = os.environ.get(VARIABLE, "")
    if not target:
        return
    line = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "event": event,
        "stage": stage(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **values,
    }
    text = json.dumps(line, ensure_ascii=False) + "\n"
    if target == "-":
        print(text, end="", file=sys.stderr, flush=True)
        return
    try:
        with open(target, "ab+") as file:
            if file.tell() and file.seek(-1, os.SEEK_END) and file.read(1) != b"\n":
                text = f"\n{text}"  # after a line that a full disk has left incomplete
            file.write(text.encode("utf-8", "replace"))
    except OSError as error:
        print(f"warning: {VARIABLE}={target} cannot be written: {error}.", file=sys.stderr)
        os.environ[VARIABLE] = ""
