"""Jobs that are submitted to a head node of a test, with the working directory of this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ray_head import RAY, Head
from waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
LONG_S = 600.0


def submit(head: Head, *command: str, id: str = "") -> subprocess.CompletedProcess[str]:
    """Run `ray job submit --working-dir . -- COMMAND`. With `id`, do not wait for its end."""
    options = ["--submission-id", id, "--no-wait"] if id else []
    return _job(head, "submit", "--working-dir", ".", *options, "--", *command)


def stop(head: Head, id: str) -> None:
    """Run `ray job stop`, which ends when the job has stopped."""
    done = _job(head, "stop", id)
    assert done.returncode == 0, done.stdout + done.stderr


def stop_once(head: Head, id: str, command: list[str], ready: Callable[[], bool]) -> None:
    """Submit a job, stop it once `ready` returns true, and wait for its end."""
    submitted = submit(head, *command, id=id)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    eventually(
        lambda: ready() or status(head, id) in ("FAILED", "SUCCEEDED"),
        LONG_S,
        lambda: log(head, id),
        every=0.1,
    )
    assert status(head, id) == "RUNNING", log(head, id)
    stop(head, id)
    assert status(head, id) == "STOPPED"


def status(head: Head, id: str) -> str:
    """Return the job's status, for example RUNNING or STOPPED."""
    code, content = page(head, f"api/jobs/{id}")
    assert code == 200, content
    return str(json.loads(content)["status"])


def log(head: Head, id: str) -> str:
    """Return what the job has printed so far."""
    return str(json.loads(page(head, f"api/jobs/{id}/logs")[1])["logs"])


def page(head: Head, path: str) -> tuple[int, bytes]:
    """Return status and content of a page of Ray's dashboard."""
    request = urllib.request.Request(f"{head.jobs}/{path}")
    request.add_header("Authorization", f"Bearer {os.environ['RAY_AUTH_TOKEN']}")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return int(answer.status), bytes(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _job(head: Head, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RAY, "job", verb, "--address", head.jobs, *words],
        cwd=ROOT, env=head.env, capture_output=True, text=True,
    )  # fmt: skip
