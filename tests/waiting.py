"""Wait for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def eventually(
    holds: Callable[[], Any],
    seconds: float = 300.0,
    told: Callable[[], object] = str,
    every: float = 0.5,
) -> Any:
    """Poll `holds` until its value is true, and return the value; fail with `told()` after `seconds`.

    The interval between polls is `every` seconds.
    """
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {told()}"
        time.sleep(every)
    return found
