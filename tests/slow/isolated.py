"""Run a command with processes and mounts of its own, in a Ray cluster of its own."""

from __future__ import annotations

import os
import subprocess

from submitted import ROOT

ISOLATED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child"),
)
"""Beginning of such a command; options of `unshare` may follow"""


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `command` in the project's folder; its processes end with it."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [*ISOLATED, *command],
        # As in ray_head.py: workers with the niceness of Ray get hardly any time beside a busy process.
        env=environment | {"RAY_worker_niceness": "0"} | variables, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
