"""Jobs on a storage that refuses writes: how they are run, and what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ray_head import Head

ROOT = Path(__file__).parents[2]
STAGES = ("ingest", "score", "rewrite", "report", "pack", "pretrain")
SAYS = "error: the storage is full or refuses access ("


def run(head: Head, job: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a job as a driver of the cluster of `head`."""
    return subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *words],
        cwd=ROOT, env={**os.environ, "RAY_ADDRESS": head.address}, capture_output=True, text=True,
    )  # fmt: skip
