"""A stage that raises on the way, as it does when its job breaks."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest


def broken_run(run: Callable[[], object], match: str) -> None:
    """`run()` raises what `match` fits; afterwards no actor of its stream is left.

    In a job they end with its process. Here the traceback holds them, and with them the CPUs that the next
    run waits for, until Python's collector comes by.
    """
    with pytest.raises(Exception, match=match):
        run()
    gc.collect()
