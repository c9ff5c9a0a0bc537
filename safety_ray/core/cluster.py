"""The Ray that a stage runs on: the cluster it was sent to, or one on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generic, TypeVar

from safety_ray.compat.ray_log_level import log_level_line_hidden
from safety_ray.core.errors import UserError

T = TypeVar("T")
SLOTS = 4
"""CPUs that Ray must count for a stage to go on row by row; with fewer a broken one begins again"""


def start() -> None:
    """Join the cluster named by RAY_ADDRESS (`ray job submit` sets it), or start Ray on this machine."""
    import logging

    import ray
    import ray.data

    if ray.is_initialized():
        return
    for name in ("ray.data", "ray.train", "ray.serve"):  # ray.data sets its own level when imported
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised as well
    # Workers import this package from the working directory of the driver: say where that is.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    local = "RAY_ADDRESS" not in os.environ
    # Ray Serve kills a proxy that takes longer to start, 5 s by default; beside a model that loads it may.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "30")
    with log_level_line_hidden():
        ray.init(
            address="local" if local else None,  # else it would join any cluster that runs on this machine
            # A stream holds a slot each to read, to skip what is done, to work and to write: with fewer
            # slots it waits for ever. A slot is not a core; a small machine shares its cores.
            num_cpus=max(SLOTS, os.cpu_count() or 1) if local else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
            include_dashboard=False if local else None,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # else a UserError loses its type between processes
    # Ray 2.60's new Parquet reader starts 32 actors for every read of every execution, which on a
    # few cores costs many times the work itself; the older reader starts none.
    context.use_datasource_v2 = False


def has_room_to_skip() -> bool:
    """Whether there is room for the step that skips finished rows; UserError with less than two CPUs."""
    import ray

    found = int(ray.cluster_resources().get("CPU", 0))
    if found < 2:
        raise UserError(f"the Ray cluster counts {found} CPU, and a stage needs two: ray start --num-cpus=2.")
    return found >= SLOTS


class Shared(Generic[T]):
    """A value in Ray's object store: one copy per node, which tasks read in place."""

    def __init__(self, value: T) -> None:
        import ray

        self._ref: Any = ray.put(value)

    def get(self) -> T:
        import ray

        value: T = ray.get(self._ref)
        return value
