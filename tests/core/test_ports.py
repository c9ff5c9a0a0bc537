"""Free ports."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from safety_ray.core import ports


def test_free_ports_are_distinct_and_bindable() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    for port in found:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", port))
            listening.listen()


def test_ports_range_lies_below_ephemeral_ports() -> None:
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not limits.exists():
        pytest.skip("the kernel does not say which ports it gives")
    lowest = int(limits.read_text().split()[0])
    if lowest < 32768:
        pytest.skip("this machine gives connections more ports than Linux does by default")
    assert ports.RANGE.stop <= lowest


def test_free_port_skips_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ports.free_ports(2)
    monkeypatch.setattr(ports, "RANGE", [first, second])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert {ports.free_port() for _ in range(20)} == {second}
        monkeypatch.setattr(ports, "RANGE", range(first, first + 1))
        with pytest.raises(OSError, match="has fewer than 1 free ports"):
            ports.free_port()
