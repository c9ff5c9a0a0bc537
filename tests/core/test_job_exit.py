"""The exit code of an interrupted job."""

from __future__ import annotations

import subprocess
import sys

INTERRUPTED = """
import atexit, os
from safety_ray.core.job import exit_codes

atexit.register(os._exit, 1)  # as Ray ends a process whose shutdown takes too long
print("progress")
with exit_codes():
    raise KeyboardInterrupt
"""


def test_interrupted_job_exits_with_130_however_ray_shuts_down() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stdout == "progress\n"
    assert ended.stderr == "\ninterrupted; run the same command again to resume.\n"
