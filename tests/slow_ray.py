"""Ray where it is slow to start, and with a second node that a test takes away."""

from __future__ import annotations

import os
import time
from typing import Any


def patient(seconds: float = 180) -> None:
    """Let a node take that long to register; Ray's 30 s, which no setting moves, end it on a busy machine."""
    from ray._private import services

    get_node = services.get_node

    def until_it_is_there(*place: Any) -> Any:
        end = time.monotonic() + seconds
        while True:
            try:
                return get_node(*place)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    services.get_node = until_it_is_there


def with_second_node(cpus: int) -> Any:
    """The second node of a new cluster, to which this process is connected through the first."""
    import ray._private.utils
    from ray.cluster_utils import Cluster

    # It would note its address where every other Ray on this machine looks for a cluster to join.
    ray._private.utils.write_ray_address = lambda *address: None
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    cluster.start()  # before there is a second node, or the driver may join that one and die with it
    second = cluster.add_node(num_cpus=cpus)
    cluster.wait_for_nodes()
    return second
