"""A Ray cluster on this machine, started as a user would: with `ray start`, on its own ports.

Ray 2.60 gives a node 30 s to register, and stops the node if an agent takes more than 15 s to choose a port.
These limits are not configurable, so a node that fails to start on a busy machine is started again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from safety_ray.core.ports import free_ports

T = TypeVar("T")
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
NODE_ID = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
FAKE_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""id that the fake provider of Ray's autoscaler gives to the head"""
TRIES = 4
STARTED_S = 180.0
STORE_BYTES = 200_000_000
# Leader of the process group in which Ray is started. Kills the group on SIGTERM or once process $0 has
# ended, so that no cluster outlives a killed pytest. `ray start --block` is not used because it stops the
# whole node if Ray Client's server, which is not used here, starts late.
LEADER = """
finish() { trap "" TERM; kill -TERM 0; sleep 2; rm -rf "$folder"; kill -KILL 0; }
trap finish TERM
folder=$1; shift
"$@" || finish
while kill -0 $0 2>/dev/null; do sleep 1; done
finish
"""


class DidNotStart(Exception):
    """Raised if a node exits or does not respond in time; the message is its log."""


@dataclass(frozen=True)
class Node:
    """A running node: the process group of `leader`, with its files in `folder`."""

    leader: subprocess.Popen[bytes]
    folder: Path
    id: str = ""
    """Ray's id of the node; empty for a head"""

    def raylets(self) -> list[int]:
        """Return the process ids of the raylets of the node and, on a head, of nodes that it has started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if process.name() == "raylet" and os.getpgid(process.pid) == self.leader.pid:
                    found.append(process.pid)
        return found

    def raylet(self) -> int:
        """Return the process id of the node's raylet."""
        found = self.raylets()
        if not found:
            raise ProcessLookupError("the node has no raylet")
        return found[0]

    def workers(self, title: str) -> list[psutil.Process]:
        """Return the node's worker processes whose process title contains `title`."""
        found = []
        for process in psutil.Process(self.raylet()).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def log(self) -> str:
        return (self.folder / "start.log").read_text() if self.folder.exists() else ""

    def stop(self) -> None:
        """Stop only this node; `ray stop` would stop every Ray cluster on this machine."""
        with suppress(ProcessLookupError):
            os.killpg(self.leader.pid, signal.SIGTERM)
        self.leader.wait()


@dataclass(frozen=True, kw_only=True)
class Head(Node):
    """A head node, with the settings that a driver or a job needs to connect."""

    address: str
    """address of the cluster, for RAY_ADDRESS"""
    jobs: str
    """URL of the job server; empty without a dashboard"""
    env: dict[str, str]

    def kill(self) -> None:
        """Kill all processes of the node with SIGKILL."""
        os.killpg(self.leader.pid, signal.SIGKILL)
        self.leader.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def start_head(
    cpus: int,
    *,
    dashboard: bool = False,
    while_alive: int | None = None,
    autoscaling: Callable[[str], dict[str, Any]] | None = None,
    store_bytes: int = STORE_BYTES,
) -> Head:
    """Start a head node with the token of this process (see conftest.py).

    The node stops when process `while_alive` (default: this one) ends. `autoscaling` returns the
    configuration of an autoscaler with the fake provider for the address of the cluster. `store_bytes` is
    the size of the object store. Raises DidNotStart after `TRIES` tries.
    """
    while_alive = while_alive or os.getpid()
    return _again(lambda: _start_head(cpus, dashboard, while_alive, autoscaling, store_bytes))


def add_node(head: Head, cpus: int, resource: str) -> Node:
    """Add a node with one unit of `resource` to the cluster; it stops when this process ends."""

    def start() -> Node:
        if head.leader.poll() is not None:
            raise DidNotStart("the head has ended")
        id = secrets.token_hex(28)
        node = _start_node(
            [f"--address={head.address}", f"--resources={json.dumps({resource: 1})}"],
            ["--dashboard-agent-listen-port"], cpus, head.env | {NODE_ID: id}, _folder(), os.getpid(),
        )  # fmt: skip
        return replace(node, id=id)

    return _again(start)


def announce_preemption(head: Head, node: Node, seconds: int) -> None:
    """Tell Ray that `node` will be preempted in `seconds` seconds, as a cloud's notice does."""
    subprocess.run(
        [*RAY, "drain-node", f"--address={head.address}", f"--node-id={node.id}",
         "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=preempted",
         f"--deadline-remaining-seconds={seconds}"],
        env=head.env, check=True, capture_output=True,
    )  # fmt: skip


def job_server_status(url: str, token: str | None) -> int:
    """Return the HTTP status of a request for the list of jobs."""
    request = urllib.request.Request(f"{url}/api/jobs/")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _again(start: Callable[[], T]) -> T:
    for left in reversed(range(TRIES)):
        try:
            return start()
        except DidNotStart:
            if not left:
                raise
    raise AssertionError


def _start_head(
    cpus: int,
    dashboard: bool,
    while_alive: int,
    autoscaling: Callable[[str], dict[str, Any]] | None,
    store_bytes: int,
) -> Head:
    folder = _folder()
    port, jobs_port = free_ports(2)
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    env |= {
        "RAY_agent_register_timeout_ms": "180000",
        # Ray's workers have niceness 15: beside a busy process of niceness 0 they get hardly any time.
        "RAY_worker_niceness": "0",
        # Make `python` in a submitted command refer to this environment.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    jobs = f"http://127.0.0.1:{jobs_port}" if dashboard else ""
    flags = ["--head", f"--temp-dir={folder}", f"--port={port}", f"--dashboard-port={jobs_port}"]
    flags += [f"--include-dashboard={str(dashboard).lower()}", "--dashboard-host=127.0.0.1"]
    flags += ["--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"]
    if autoscaling:
        (folder / "autoscaling.json").write_text(json.dumps(autoscaling(f"127.0.0.1:{port}")))
        flags += [f"--autoscaling-config={folder}/autoscaling.json"]
        env |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1"}
        env |= dict.fromkeys(("RAY_CLOUD_INSTANCE_ID", NODE_ID), FAKE_HEAD_ID)
    node = _start_node(
        flags,
        ["--dashboard-agent-listen-port", "--ray-client-server-port", "--metrics-export-port"],
        cpus, env, folder, while_alive, store_bytes,
        # The job server may answer while the node still fails to start.
        answers=lambda: not jobs or job_server_status(jobs, os.environ["RAY_AUTH_TOKEN"]) == 200,
    )  # fmt: skip
    return Head(node.leader, folder, address=f"127.0.0.1:{port}", jobs=jobs, env=env)


def _start_node(
    flags: list[str], ports: list[str], cpus: int, env: dict[str, str], folder: Path, while_alive: int,
    store_bytes: int = STORE_BYTES, answers: Callable[[], bool] = lambda: True,
) -> Node:  # fmt: skip
    named = [f"{name}={port}" for name, port in zip(ports, free_ports(len(ports)), strict=True)]
    command = [*RAY, "start", *flags, *named, f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1"]
    with open(folder / "start.log", "w") as log:
        leader = subprocess.Popen(
            ["bash", "-c", LEADER, str(while_alive), str(folder), *command,
             f"--object-store-memory={store_bytes}"],
            env=env, stdout=log, stderr=log, cwd=folder, start_new_session=True,
        )  # fmt: skip
    node, end = Node(leader, folder), time.monotonic() + STARTED_S
    while time.monotonic() < end and leader.poll() is None:
        with suppress(OSError):
            if "Ray runtime started" in node.log() and answers():
                return node
        time.sleep(0.2)
    said = node.log()
    node.stop()
    raise DidNotStart(said)


def _folder() -> Path:
    # A short path under /tmp, because the paths of Ray's sockets are limited to 107 characters.
    return Path(tempfile.mkdtemp(prefix="sr", dir="/tmp"))
