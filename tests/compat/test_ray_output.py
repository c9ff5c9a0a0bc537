"""Canaries: Ray still prints these messages, and they do not reach the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray._private import worker

from safety_ray.compat.ray_output import (
    SHUTDOWN,
    drop_serve_shutdown_message,
    without_log_level_message,
)

ROOT = Path(__file__).resolve().parents[2]
CONNECT = """
from safety_ray.core.job import quiet
quiet()
import ray, sys
if "raw" in sys.argv:
    ray.init(logging_level="ERROR", log_to_driver=False)
else:
    from safety_ray.core import cluster
    cluster.start()
    print("later", file=sys.stderr)
"""


def test_stderr_of_block_is_kept_without_log_level_message(capfd: pytest.CaptureFixture[str]) -> None:
    with without_log_level_message():
        os.write(2, b"before\n[...] Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n")
        os.write(2, b"after\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "before\nafter\nlater\n"


@pytest.mark.parametrize("how", ["raw", "quiet"])
def test_driver_connects_without_log_level_message(ray_cluster: None, how: str) -> None:
    command = [sys.executable, "-c", CONNECT, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    if how == "raw":
        assert "Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL" in done.stderr
    else:
        assert done.stderr == "later\n"


def test_serve_shutdown_message_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[Any] = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: printed.append(data))
    drop_serve_shutdown_message()
    drop_serve_shutdown_message()
    data = {"pid": "raylet", "is_err": False}
    worker.print_to_stdstream({**data, "lines": [f"{SHUTDOWN} There are infinite retries"]}, False)
    worker.print_to_stdstream({**data, "lines": [f"{SHUTDOWN} There", "A worker was killed."]}, False)
    assert printed == [{**data, "lines": ["A worker was killed."]}]
