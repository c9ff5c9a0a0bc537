"""Calls in another process, whose memory is not part of a measurement."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function of a module, called in a new process.

    Memory that a process has freed remains its own, so inputs written by the measured process would hide what
    the measured step needs.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
