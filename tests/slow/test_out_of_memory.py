"""A page that takes more memory than there is: it is found, rejected and counted.

The job runs in a group of processes with a limit of its own, as in a container. Ray's memory monitor sees
this limit and ends workers; without the monitor, the kernel does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import isolated
import pyarrow.dataset as pads
import pytest

from safety_ray.core import dataset
from safety_ray.core.artifact import read_record

pytestmark = pytest.mark.covers("safety_ray.core.worker_deaths", "safety_ray.ingest", "jobs.ingest")
LIMIT = LARGE = 5 << 29
"""bytes that all processes of the job may use, and bytes of the page"""
PAGES = 6
SETTINGS = {
    # One idle worker for each core of a large machine would use the memory.
    "RAY_prestart_worker_first_driver": "0",
    # Ray's monitor looks every quarter of a second, and is to be faster than the kernel.
    "RAY_memory_usage_threshold": "0.8",
}
MEMORY = "/sys/fs/cgroup/memory"
LIMITED = f"""mount --bind "$1" {MEMORY}; echo 0 > {MEMORY}/cgroup.procs; shift; exec "$@" """


@pytest.fixture
def group() -> Iterator[Path]:
    """The folder of a memory cgroup (version 1) with the limit `LIMIT`, below the one of this process."""
    groups = (line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = next((path for _, kind, path in groups if kind == "memory"), "")
    folder = Path(f"{MEMORY}{own.rstrip('/')}/safety_ray_{os.getpid()}")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this process cannot limit the memory of others: {error}")
    try:
        try:
            (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
        except OSError as error:
            pytest.skip(f"this process cannot limit the memory of others: {error}")
        probe = limited(folder, "true")
        if probe.returncode:
            pytest.skip(f"this process cannot limit the memory of others: {probe.stderr.strip()}")
        yield folder
    finally:
        folder.rmdir()


def limited(group: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the group, as if the limit were that of a machine."""
    return isolated.run("bash", "-euc", LIMITED, "bash", str(group), *command, **SETTINGS, **variables)


@pytest.mark.parametrize("monitor_ms", [250, 0])
def test_ingest_rejects_page_that_exhausts_memory(monitor_ms: int, group: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(PAGES):
        text = f"Some pupils wrote about water and about trees in the garden{n}."
        html = f"<html><body><article><p>{text}</p></article></body></html>"
        (tmp_path / "in" / f"{n}.html").write_text(html)
    with (tmp_path / "in" / "large.html").open("wb") as file:
        file.truncate(LARGE)  # takes no space on the disk
    done = limited(
        group, sys.executable, "-m", "jobs.ingest", f"input={tmp_path}/in", f"output={tmp_path}/out",
        f"max_bytes={2 * LARGE}", RAY_memory_monitor_refresh_ms=str(monitor_ms),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost work: " in done.stdout
    rejected = pads.dataset(tmp_path / "out" / "rejected").to_table().to_pylist()
    assert [Path(row["source_file"]).name for row in rejected] == ["large.html"]
    assert "its processing ended the worker process 2 times" in rejected[0][dataset.REASON]
    record = read_record(str(tmp_path / "out"))
    assert record is not None
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (PAGES + 1, PAGES, 1)
    assert record["lost_work"]["workers"] >= 4, "twice with the other pages, twice alone"
    by_kernel = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    assert monitor_ms or int(by_kernel["oom_kill"]) >= 4
