"""Exit codes of jobs, and what they print at their end."""

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


WORKERS_MISTAKE = """
from ray.exceptions import RayTaskError
from safety_ray.core.errors import UserError
from safety_ray.core.job import exit_codes

with exit_codes():
    raise RayTaskError("step", "traceback", UserError("row 'x' has no text.")).as_instanceof_cause()
"""


def test_job_shows_the_sentence_of_a_worker() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WORKERS_MISTAKE], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == "error: row 'x' has no text.\n"


def test_interrupted_job_exits_with_130_however_ray_shuts_down() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stdout == "progress\n"
    assert ended.stderr == "\ninterrupted; run the same command again to resume.\n"
