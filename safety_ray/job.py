"""How a job starts: settings from the command line, a clear end for a user's mistake."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from safety_ray.config import load
from safety_ray.errors import UserError, user_error_in

T = TypeVar("T")


def main(cls: type[T], run: Callable[[T], dict[str, Any]], argv: list[str] | None = None) -> None:
    """Load a `cls` from the command line and `run` it; exit code 2 for a user's mistake, 130 for Ctrl-C."""
    quiet()
    try:
        record = run(load(cls, sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on where this one stopped.", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        mistake = error if isinstance(error, UserError) else user_error_in(error)
        if mistake is None:
            raise
        # Ray Data adds advice of its own below the sentence.
        print(f"error: {str(mistake).splitlines()[0]}", file=sys.stderr)
        raise SystemExit(2) from None
    counts = [f"{record[key]:,} {name}" for key, name in _COUNTS if key in record]
    if counts:
        print(f"{', '.join(counts)}, {record['seconds']} s", flush=True)


_COUNTS = (("rows_in", "rows in"), ("rows_out", "rows out"), ("set_aside", "set aside"))


def quiet() -> None:
    """Turn down libraries that talk at every start; warnings of this project still show."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.disable(logging.INFO)  # Ray Serve prints its deployments' options, whatever its level is
    # Ray's C++ side prints expected conditions as errors; what fails is raised in Python as well.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
