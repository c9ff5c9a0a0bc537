"""Ports for what starts later: free now, and never the near end of somebody's connection meanwhile."""

from __future__ import annotations

import random
import socket

# Above the workers of Ray (10002-19999) and below what Linux (32768 and up), macOS and Windows hand out
# to outgoing connections: a port from there may be taken by the time that an engine has loaded.
RANGE = range(20000, 32768)


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """`number` different TCP ports of `host` that nothing listens on right now; OSError if there are none."""
    found: list[int] = []
    for port in random.sample(RANGE, len(RANGE)):
        with socket.socket() as trial:
            try:
                trial.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    raise OSError(f"{host} has no {number} free ports in {RANGE[0]}-{RANGE[-1]}")


def free_port(host: str = "127.0.0.1") -> int:
    """One TCP port of `host` that nothing listens on right now; OSError if there is none."""
    return free_ports(1, host)[0]
