"""Report which signal killed a process of a vLLM engine; vLLM 0.29 logs at most the signal number.

The worker is a child of the engine core, which is a child of the process that requests text. Only a parent
process can read a child's exit status, so each process of an engine waits for its own children and prints a
message. The requesting process reads this message from the log file that Ray assigns to it and its
descendants.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

_NAMES = ("EngineCore", "VllmWorker", "Worker_")
_ORDINARY = {signal.SIGINT, signal.SIGTERM}  # sent when an engine is stopped
_HINTS = {
    signal.SIGKILL: "; the machine may have run out of memory",
    signal.SIGILL: "; its processor lacks an instruction, or Linux refuses it: try dtype float32",
}
_MESSAGE = re.compile(r"vLLM's process \S+ was killed by SIG.+")
_wrapped = threading.Lock()


def killed_by(name: str, number: int) -> str:
    """Return the message for process `name`, killed by signal `number`."""
    sig = signal.Signals(number)
    return f"vLLM's process {name} was killed by {sig.name} ({signal.strsignal(sig)}{_HINTS.get(sig, '')})."


def report_killed_children() -> None:
    """Print a message whenever a signal kills a vLLM process that this process starts after this call."""
    if not _wrapped.acquire(blocking=False):
        return
    start = BaseProcess.start

    def start_and_watch(child: BaseProcess) -> None:
        start(child)
        if child.name.startswith(_NAMES):
            threading.Thread(target=_report, args=(child,), name="KilledChild", daemon=True).start()

    BaseProcess.start = start_and_watch  # type: ignore[method-assign, assignment]


def last_killed(log: str) -> str | None:
    """Return the last of these messages in the text of a log, or None."""
    messages: list[str] = _MESSAGE.findall(log)
    return messages[-1] if messages else None


def worker_log() -> str:
    """Return the output of this Ray worker and its descendants; empty if stdout is not a file."""
    path = Path("/proc/self/fd/1").resolve()
    return path.read_text(errors="replace") if path.is_file() else ""


def _report(child: BaseProcess) -> None:
    connection.wait([child.sentinel])
    end = time.monotonic() + 10
    while (code := child.exitcode) is None and time.monotonic() < end:  # another thread may be reaping it
        time.sleep(0.01)
    if code is not None and code < 0 and -code not in _ORDINARY:
        print(killed_by(child.name, -code), flush=True)
