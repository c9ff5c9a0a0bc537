"""The same commands run on a cluster: a real head node, asked as `ray job submit` asks it."""

from __future__ import annotations

import ctypes
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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from safety_ray.ports import free_ports

ROOT = Path(__file__).resolve().parent.parent
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
STARTED = "Ray runtime started"
# Leads the process group in which Ray is started, and ends it when told to. Not `ray start --block`:
# that ends the whole node when Ray Client's server, which nobody needs here, is late.
LEADER = 'trap "trap - TERM; kill 0" TERM; "$@" || exit 1; while true; do sleep 1; done'


@dataclass(frozen=True)
class Head:
    """Where a head node's job server answers, and the environment that holds its token."""

    address: str
    env: dict[str, str]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head node on ports and in a folder of its own, with token authentication."""
    # Ray gives a node 30 s to start, which a busy machine exceeds, and a port may be taken between
    # its choice and its use: up to three tries, each on other ports, and each failed one's log is shown.
    for tries_left in (2, 1, 0):
        try:
            process, folder, head = start()
            break
        except DidNotStart as failure:
            print(failure)
            if not tries_left:
                raise
    yield head
    if process.poll() is not None:  # shown with the tests that failed because of it
        print((Path(folder) / "head.log").read_text())
    end(process, folder)


class DidNotStart(Exception):
    """The head node ended or stayed silent; the message is its log."""


def start() -> tuple[subprocess.Popen[bytes], str, Head]:
    # Below /tmp and short, since the paths of Ray's sockets may have 107 characters.
    folder = tempfile.mkdtemp(prefix="sr", dir="/tmp")
    ports = free_ports(5)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {
        # A token of its own, so that none in the home directory is needed, read or written.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # `python` in a submitted command is this environment's.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    names = ("--port", "--dashboard-port", "--dashboard-agent-listen-port", "--ray-client-server-port")
    command = [*RAY, "start", "--head", f"--temp-dir={folder}", "--num-cpus=4"]
    command += [f"{name}={port}" for name, port in zip(names, ports, strict=False)]
    command += [f"--metrics-export-port={ports[4]}", "--min-worker-port=0", "--max-worker-port=0"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--include-log-monitor=false"]
    command += ["--object-store-memory=100000000"]
    log = Path(folder) / "head.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            ["bash", "-c", LEADER, "leader", *command],
            env=env,
            stdout=file,
            stderr=file,
            cwd=folder,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    head = Head(f"http://127.0.0.1:{ports[1]}", env)
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and process.poll() is None:
        # Both, since the job server answers while the node may still fail to start.
        with suppress(OSError):
            if STARTED in log.read_text() and ask(head.address, env["RAY_AUTH_TOKEN"]) == 200:
                return process, folder, head
        time.sleep(0.3)
    said = log.read_text()
    end(process, folder)
    raise DidNotStart(said)


def end_with_parent() -> None:
    """In the child, before Ray: ask for SIGTERM when pytest is killed, so that no cluster stays behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def ask(address: str, token: str | None) -> int:
    """HTTP status of the list of jobs."""
    request = urllib.request.Request(f"{address}/api/jobs/")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def end(head: subprocess.Popen[bytes], folder: str) -> None:
    """End the head node and what it started, and nothing else: no `ray stop`, which ends every Ray here."""
    started: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == head.pid:
                started += [process, *process.children(recursive=True)]
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(started, timeout=2)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(10)
    for _ in range(3):  # a process that is just ending may still write
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.2)


def submit(head: Head, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--", *command],
        cwd=ROOT,
        env=head.env,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_jobs_run_on_the_cluster_as_they_run_here(head: Head, tmp_path: Path) -> None:
    corpus, documents = tmp_path / "corpus", tmp_path / "documents"
    first = f"python -m jobs.corpus output={corpus} documents=700"
    # A stage with Ray Data: its workers, too, take the package from the uploaded folder.
    second = f"python -m jobs.ingest input={corpus}/data output={documents}"
    done = submit(head, "bash", "-c", f"{first} && {second}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    made = json.loads((corpus / "record.json").read_text())
    assert made["rows_in"] == made["rows_out"] == 700
    read = json.loads((documents / "record.json").read_text())
    assert read["rows_in"] == read["rows_out"] + read["set_aside"] == 700


def test_a_users_mistake_fails_the_job_and_says_why(head: Head, tmp_path: Path) -> None:
    done = submit(head, *f"python -m jobs.corpus output={tmp_path}/x document=700".split())
    assert done.returncode != 0
    assert "unknown setting 'document'; the nearest is 'documents'" in done.stdout
    assert "Traceback" not in done.stdout


def test_without_the_token_nobody_is_heard(head: Head) -> None:
    assert ask(head.address, None) == 401
    assert ask(head.address, "0" * 64) in (401, 403)
