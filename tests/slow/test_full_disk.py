"""A disk that becomes full during a job: one line, no folder that passes for finished, and a resumed run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ray_head import Head

from safety_ray.core import dataset
from safety_ray.core.artifact import is_finished, read_record

pytestmark = pytest.mark.covers("jobs.ingest", "safety_ray.core")
ROOT = Path(__file__).parents[2]
ROWS = 4000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB. Needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_ingest_ends_on_full_disk_and_resumes(disk: Path, tmp_path: Path, head: Head) -> None:
    random = np.random.default_rng(0)
    texts = [random.bytes(500).hex() for _ in range(ROWS)]  # 4 MB, which hardly compress below 2 MB
    for n in range(4):
        table = pa.table({"id": [f"d{i}" for i in range(n, ROWS, 4)], "text": texts[n::4]})
        dataset.write_table(table, str(tmp_path / "in" / f"{n}.parquet"))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "jobs.ingest", f"input={tmp_path}/in", f"output={disk}/out"],
            cwd=ROOT, env={**os.environ, "RAY_ADDRESS": head.address}, capture_output=True, text=True,
        )  # fmt: skip

    ended = run()
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "error: the storage is full or refuses access (" in ended.stderr
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not is_finished(f"{disk}/out")
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    resumed = run()
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    record = read_record(f"{disk}/out")
    assert record is not None
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (ROWS, ROWS, 0)
    assert dataset.table(f"{disk}/out").column("id").to_pylist() == sorted(f"d{n}" for n in range(ROWS))
