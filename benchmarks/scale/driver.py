"""The local cluster of a measurement, and the memory of its driver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from safety_ray.core import cluster, job


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Start Ray; yield a dict that has the driver's peak memory and the seconds of the block afterwards."""
    job.quiet()
    cluster.start()
    values: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present use
    before, start = _kilobytes("VmRSS"), time.monotonic()
    yield values
    values["seconds"] = time.monotonic() - start
    values["driver_mb"] = (_kilobytes("VmHWM") - before) / 1024
    ray.shutdown()


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
