"""Run a stage that raises an error partway, as in a job that fails."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest


def broken_run(run: Callable[[], object], match: str) -> None:
    """Assert that `run()` raises an error matching `match`, then release the actors of its stream.

    In a job the actors end with the process. Here the traceback keeps the actors, and the CPUs that the next
    run needs, until Python's garbage collector runs.
    """
    with pytest.raises(Exception, match=match):
        run()
    gc.collect()
