"""Waiting for what an endpoint does by and by."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool], seconds: float = 40.0, told: Callable[[], object] = str) -> None:
    """Until `holds`; an assertion with what is `told` where that takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {told()}"
        time.sleep(0.5)
