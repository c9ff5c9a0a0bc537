"""Run a function from the command line: load its settings, report user errors in one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from safety_ray.core import cost, events, lost_work
from safety_ray.core.config import load
from safety_ray.core.errors import correctable

T = TypeVar("T")
_COUNTS = (("rows_in", "rows in"), ("rows_out", "rows out"), ("rejected", "rejected"))


def main(cls: type[T], run: Callable[[T], dict[str, Any]], argv: list[str] | None = None) -> None:
    """Load a `cls` from `argv`, by default the command line, and call `run` with it."""
    quiet()
    with exit_codes():
        run_job(cls, run, sys.argv[1:] if argv is None else argv)


def run_job(cls: type[T], run: Callable[[T], dict[str, Any]], argv: list[str]) -> None:
    """Load a `cls` from `argv`, call `run` with it, and print the row counts of its record."""
    config = load(cls, argv)
    cost.prices()  # fail here, not in the first write
    record = run(config)
    counts = [f"{record[key]:,} {name}" for key, name in _COUNTS if key in record]
    if counts:
        print(f"{', '.join(counts)}, {record['seconds']} s", flush=True)
    if lost := lost_work.describe(record):
        print(lost, flush=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Exit with code 2 and one line for an error that the user can correct, and with code 130 for Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to resume.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Without Ray's shutdown at exit: if it takes more than 30 seconds, as on a busy machine, Ray ends the
        # process with code 1. The kernel ends the processes of a cluster that this process has started.
        os._exit(130)
    except Exception as error:
        mistake = correctable(error)
        if mistake is None:
            events.emit("job_failed", error=type(error).__name__)  # its message may be anything
            raise
        events.emit("job_failed", error=str(mistake).splitlines()[0])
        # Ray Data appends its own advice below the first line.
        print(f"error: {str(mistake).splitlines()[0]}", file=sys.stderr)
        raise SystemExit(2) from None


def quiet() -> None:
    """Reduce the output of libraries. Warnings of this project are still shown."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.disable(logging.INFO)  # Ray Serve prints the options of deployments at any log level
    # Ray's C++ code logs expected conditions as errors; real failures are raised in Python as well.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
