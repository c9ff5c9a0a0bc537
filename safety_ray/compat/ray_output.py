"""Keep two messages of Ray 2.60 off the terminal; neither depends on Ray's logging settings.

- "Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to ...": Ray's C++ code writes this to
  standard error when a driver connects, before it applies the level.
- "Task ServeController.graceful_shutdown failed. There are infinite retries remaining ...": the controller of
  Ray Serve kills itself at the end of this call, which the driver reports as a failed task, even with
  `log_to_driver=False`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOG_LEVEL = b"Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL"
SHUTDOWN = "Task ServeController.graceful_shutdown failed."


@contextmanager
def without_log_level_message() -> Iterator[None]:
    """Hold back standard error, also that of C++ code, and write it later without the message."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            os.write(2, b"".join(line for line in held if LOG_LEVEL not in line))


def drop_serve_shutdown_message() -> None:
    """Filter the message from the errors that Ray prints on this driver."""
    from ray._private import worker

    if getattr(worker.print_to_stdstream, "drops_shutdown_message", False):
        return
    print_lines = worker.print_to_stdstream

    def print_other_lines(data: dict[str, Any], ignore_prefix: bool) -> None:
        lines = [line for line in data["lines"] if not line.startswith(SHUTDOWN)]
        if lines:
            print_lines({**data, "lines": lines}, ignore_prefix)

    print_other_lines.drops_shutdown_message = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = print_other_lines
