"""Reasons of a failed start or health check, each as one line.

An engine's own processes write the reason to the log of the replica, which Ray Serve does not show.
"""

from __future__ import annotations

import re

from safety_ray.compat.killed_children import last_killed, worker_log

NOT_STARTED = "the engine did not start: "
"""Prefix of the reason in the error of a replica's constructor."""
_POINTERS = ("root cause", "background process")  # messages that only point to another error


def health_failure(error: Exception) -> str:
    """Return the reason of a failed health check: the signal that killed a process, or the root cause."""
    return last_killed(worker_log()) or root_cause(error)


def root_cause(error: Exception) -> str:
    """Return the reason of a failed start, from the error or from the log of this worker."""
    message = str(error) or type(error).__name__
    if not any(words in message for words in _POINTERS):
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        kept = [line for line in lines if not line.startswith("For further information")]
        return (kept or lines)[-1].split(" [type=")[0].removeprefix("Value error, ")
    log = worker_log()
    return last_killed(log) or last_error(log) or message


def last_error(log: str) -> str | None:
    """Return the last `SomeError: reason` in a log that does not only point to another error."""
    errors = re.findall(r"\b(\w+(?:Error|Exception): .+)", log)
    return next((line for line in reversed(errors) if not any(words in line for words in _POINTERS)), None)
