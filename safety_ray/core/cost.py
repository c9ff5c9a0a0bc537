"""The cost of a run so far, from prices of the cluster's resources.

    SAFETY_RAY_PRICES=CPU=0.05,GPU=2.50

gives a price per hour for each unit of a Ray resource, in any currency. All nodes of the cluster count while
a stage works, whether they are busy or idle, because that is how machines are paid for. Without a cluster,
this machine counts.
"""

from __future__ import annotations

import math
import os
import sys
import time

from safety_ray.core import cluster
from safety_ray.core.errors import UserError

VARIABLE = "SAFETY_RAY_PRICES"


def prices() -> dict[str, float]:
    """Return the price per hour of each resource; {} without prices. Raises UserError if one is invalid."""
    prices: dict[str, float] = {}
    for word in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, text = word.partition("=")
        try:
            price = float(text)
        except ValueError:
            price = -1.0
        if not name.strip() or not 0 <= price < math.inf:
            raise UserError(
                f"{VARIABLE}: '{word}' is not a resource with its price per hour, such as CPU=0.05,GPU=2.50."
            )
        prices[name.strip()] = price
    return prices


def this_machine() -> dict[str, float]:
    """Return the CPUs of this machine, and its GPUs if PyTorch is loaded."""
    torch = sys.modules.get("torch")
    return {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count() if torch else 0}


class Cost:
    """The cost since this object was created; nodes that join or leave count for the time between calls."""

    def __init__(self) -> None:
        self.prices, self.total = prices(), 0.0
        self._last = time.monotonic()

    def __call__(self) -> float | None:
        """Return the cost so far, or None without prices."""
        if not self.prices:
            return None
        now, resources = time.monotonic(), cluster.resources() or this_machine()
        per_hour = sum(price * resources.get(name, 0.0) for name, price in self.prices.items())
        self.total += per_hour * (now - self._last) / 3600
        self._last = now
        return self.total
