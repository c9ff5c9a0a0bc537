"""Hide the line that Ray prints to stderr because RAY_BACKEND_LOG_LEVEL is set.

Ray 2.60 reports the level with severity INFO before the level takes effect (src/ray/util/logging.cc,
InitSeverityThreshold), and always to stderr. Everything else is printed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_LINE = b"Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL"


@contextmanager
def log_level_line_hidden() -> Iterator[None]:
    """Collect what is written to file descriptor 2 in the block, and print it afterwards without the line."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with tempfile.TemporaryFile() as collected:
            os.dup2(collected.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(stderr, 2)
                collected.seek(0)
                kept = b"".join(line for line in collected if _LINE not in line)
                if kept:
                    os.write(2, kept)
    finally:
        os.close(stderr)
