"""The Ray cluster that a stage runs on: that of RAY_ADDRESS, or one on this machine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from safety_ray.compat import ray_output
from safety_ray.core import exchange
from safety_ray.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

T = TypeVar("T")
SLOTS = 4
"""CPUs that Ray must count so that a stage can skip finished rows; with fewer, a broken stage restarts"""
WAIT = "SAFETY_RAY_NODE_WAIT_S"
"""Environment variable with the seconds that a stage waits for the first nodes of a cluster"""
_WAIT_S, _STEP_S = 1800.0, 1.0
_LEAST = 2


def start(needs_cpus: bool = True) -> None:
    """Join the cluster at RAY_ADDRESS (set by `ray job submit`), or start Ray on this machine.

    With `needs_cpus`, wait for nodes while the cluster has no CPUs for a stage.
    """
    import ray

    if not ray.is_initialized():
        _connect()
    if needs_cpus:
        wait_for_cpus()


def _connect() -> None:
    import logging

    import ray
    import ray.data

    for name in ("ray.data", "ray.train", "ray.serve"):  # ray.data sets its own level when imported
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are raised as well
    # Workers import this package from the folder that the driver imports it from.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    local = "RAY_ADDRESS" not in os.environ
    # Ray Serve kills a proxy that takes longer than 5 s to start, which it may while a model loads.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "30")
    ray_output.drop_serve_shutdown_message()
    with ray_output.without_log_level_message():
        context = ray.init(
            address="local" if local else None,  # None would join any cluster that runs on this machine
            # A stream needs a slot each to read, to skip finished rows, to work and to write; with fewer
            # slots it waits forever. A slot is not a core: the tasks share the cores of a small machine.
            num_cpus=max(SLOTS, os.cpu_count() or 1) if local else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
            include_dashboard=False if local else None,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    if context.dashboard_url:
        job = ray.get_runtime_context().get_job_id()
        print(f"Ray dashboard: http://{context.dashboard_url}/#/jobs/{job}", flush=True)
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.print_on_execution_start = False
    settings.raise_original_map_exception = True  # keeps the type of a UserError between processes
    # The new Parquet reader of Ray 2.60 starts 32 actors for every read of every execution, which on a
    # few cores costs many times the work itself; the older reader starts none.
    settings.use_datasource_v2 = False
    exchange.use_arguments(settings)


def is_running() -> bool:
    """Return whether this process is connected to a cluster, without importing Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def resources() -> dict[str, float]:
    """Return the resources of all nodes, e.g. {"CPU": 8.0}; {} without a cluster."""
    if not is_running():
        return {}
    import ray

    return dict(ray.cluster_resources())


def this_node() -> str:
    """Return the id of the node that this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def this_worker() -> str:
    """Return the id of this worker process."""
    import ray

    return str(ray.get_runtime_context().get_worker_id())


def alive_nodes() -> set[str]:
    """Return the ids of the nodes that are not lost."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def wait_for_cpus() -> None:
    """Wait until the cluster has the CPUs of a stage: a node may join, or an autoscaler may add one.

    Raises UserError if there are none after the seconds in SAFETY_RAY_NODE_WAIT_S (default: 1800).
    """
    from ray.util import placement_group, remove_placement_group

    cpus = _cpus()
    if cpus >= _LEAST:
        return
    limit = _wait_s()
    print(f"The cluster has {cpus} CPUs, and a stage needs {_LEAST}: waiting for nodes.", flush=True)
    # An autoscaler adds nodes for a placement group that does not fit.
    wanted = placement_group([{"CPU": 1}] * _LEAST)
    try:
        end = time.monotonic() + limit
        # Short waits, because Ray's do not end on Ctrl-C.
        while not wanted.wait(min(limit, _STEP_S)) and _cpus() < _LEAST and time.monotonic() < end:
            pass
        if _cpus() < _LEAST:
            raise UserError(
                f"the Ray cluster has {_cpus()} CPUs, and a stage needs {_LEAST}: no node was added within "
                f"{limit:g} s ({WAIT}). Start Ray with ray start --num-cpus={SLOTS}, or add nodes."
            )
    finally:
        remove_placement_group(wanted)


def _wait_s() -> float:
    value = os.environ.get(WAIT) or str(_WAIT_S)
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{WAIT}='{value}' must be a number of seconds, such as 600.") from None


def has_room_to_skip() -> bool:
    """Return whether the step that skips finished rows fits, after waiting for the CPUs of a stage."""
    wait_for_cpus()
    return _cpus() >= SLOTS


def _cpus() -> int:
    return int(resources().get("CPU", 0))


class Shared(Generic[T]):
    """A value in Ray's object store: one copy per node, read in place by tasks."""

    def __init__(self, value: T) -> None:
        import ray

        self._ref: Any = ray.put(value)

    @classmethod
    def of_reference(cls, ref: Any) -> Shared[T]:
        """Return the value of a reference, for example of the result of a Ray task."""
        shared = cls.__new__(cls)
        shared._ref = ref
        return shared

    def get(self) -> T:
        import ray

        value: T = ray.get(self._ref)
        return value


def start_actor(cls: type, *arguments: Any) -> Any:
    """Start an actor on the driver's node: that node's loss ends the job anyway. Returns its handle.

    An actor whose process dies starts again, without its state.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(cls).options(
        num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1
    )
    return actor.remote(*arguments)


def shared_actor(cls: type) -> Any:
    """Return this driver's actor of class `cls`, which the first call starts with `start_actor`."""
    import ray

    return _shared_actor(ray.get_runtime_context().get_worker_id(), cls)


@cache
def _shared_actor(driver: str, cls: type) -> Any:
    return start_actor(cls)


def result(reference: Any) -> Any:
    """Wait for the result of an actor's method and return it."""
    import ray

    return ray.get(reference)


def gather(rows: Dataset | list[Any], function: Callable[[list[pa.Table]], T]) -> Shared[T]:
    """Call `function` with the blocks of `rows` in a Ray task. The driver never holds the rows.

    `rows`: a dataset, or references to blocks. Raises the exception of `function`.
    """
    import ray

    def call(*blocks: Any) -> tuple[T, None]:
        return function([block for block in blocks if len(block)]), None

    blocks = rows if isinstance(rows, list) else rows.to_arrow_refs()
    value, done = ray.remote(call).options(num_cpus=0, num_returns=2).remote(*blocks)
    ray.get(done)  # raises what `function` raised
    return Shared.of_reference(value)
