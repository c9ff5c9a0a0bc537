"""Free ports for servers that start later."""

from __future__ import annotations

import random
import socket

# Above the workers of Ray (10002-19999) and below the ports that Linux (32768 and up), macOS and Windows
# assign to outgoing connections, which could be taken before an engine has loaded.
RANGE = range(20000, 32768)


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """Return `number` different free TCP ports of `host`. Raises OSError if there are fewer."""
    ports: list[int] = []
    for port in random.sample(RANGE, len(RANGE)):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == number:
            return ports
    raise OSError(f"{host} has fewer than {number} free ports in {RANGE[0]}-{RANGE[-1]}")


def free_port(host: str = "127.0.0.1") -> int:
    """Return a free TCP port of `host`. Raises OSError if there is none."""
    return free_ports(1, host)[0]
