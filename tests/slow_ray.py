"""Ray where it is slow to start, and with a second node that a test takes away."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from safety_ray import cluster
from safety_ray.ports import free_ports

_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


def patient(seconds: float = 180) -> None:
    """Let a node that this process starts take that long, on a busy machine.

    Ray 2.60 gives a node 30 s to register, and lets it die where one of its agents has not told a port
    after 15 s. No setting moves these; so who asks for a node waits, and the agents are told their ports.
    """
    from ray._private import parameter, services

    os.environ.setdefault("RAY_agent_register_timeout_ms", str(int(seconds * 1000)))
    get_node, start_process = services.get_node, services.start_ray_process
    make = parameter.RayParams.__init__

    def until_it_is_there(*place: Any) -> Any:
        end = time.monotonic() + seconds
        while True:
            try:
                return get_node(*place)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def with_ports(self: Any, *args: Any, **settings: Any) -> None:
        make(self, *args, **settings)
        for name, port in zip(_PORTS, free_ports(len(_PORTS)), strict=True):
            setattr(self, name, port)

    def with_agents_port(command: list[str], kind: str, *args: Any, **settings: Any) -> Any:
        if kind == "raylet":  # it takes this port too, and is told of it through its agent's command only
            [port] = re.findall(r"--listen-port=(\d+)", " ".join(command))
            command = [*command, f"--dashboard_agent_listen_port={port}"]
        return start_process(command, kind, *args, **settings)

    services.get_node, services.start_ray_process = until_it_is_there, with_agents_port
    parameter.RayParams.__init__ = with_ports


def with_second_node(cpus: int) -> Any:
    """The second node of a new cluster, to which this process is connected through the first."""
    import ray._private.utils
    from ray.cluster_utils import Cluster

    # It would note its address where every other Ray on this machine looks for a cluster to join.
    ray._private.utils.write_ray_address = lambda *address: None
    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = head.address
    cluster.start()  # before there is a second node, or the driver may join that one and die with it
    second = head.add_node(num_cpus=cpus)
    head.wait_for_nodes()
    return second
