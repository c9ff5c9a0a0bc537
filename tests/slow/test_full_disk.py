"""A disk that becomes full during a job: one line, no folder that passes for finished, and a resumed run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import all_stages
import numpy as np
import pyarrow as pa
import pytest
from ray_head import Head
from refused import SAYS, run
from small_pipeline import FIT

from benchmarks.chaos.__main__ import write_input
from benchmarks.chaos.outputs import contents, differences
from safety_ray.core import dataset
from safety_ray.core.artifact import is_finished, read_record

pytestmark = pytest.mark.covers("jobs", "safety_ray.core")
ROWS = 4000
LARGE = 64_000
"""kilobytes, enough for all files"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB. Needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def resize(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)


def kilobytes(folder: Path) -> int:
    """Return what the files of `folder` take on a disk with pages of 4 KB."""
    return sum(4 * -(-file.stat().st_size // 4096) for file in folder.rglob("*") if file.is_file())


def test_ingest_ends_on_full_disk_and_resumes(disk: Path, tmp_path: Path, head: Head) -> None:
    random = np.random.default_rng(0)
    texts = [random.bytes(500).hex() for _ in range(ROWS)]  # 4 MB, which hardly compress below 2 MB
    for n in range(4):
        table = pa.table({"id": [f"d{i}" for i in range(n, ROWS, 4)], "text": texts[n::4]})
        dataset.write_table(table, str(tmp_path / "in" / f"{n}.parquet"))

    words = (f"input={tmp_path}/in", f"output={disk}/out")
    ended = run(head, "ingest", *words)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert SAYS in ended.stderr
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not is_finished(f"{disk}/out")
    resize(disk, LARGE)
    resumed = run(head, "ingest", *words)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    record = read_record(f"{disk}/out")
    assert record is not None
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (ROWS, ROWS, 0)
    assert dataset.table(f"{disk}/out").column("id").to_pylist() == sorted(f"d{n}" for n in range(ROWS))


def check_says_full(ended: subprocess.CompletedProcess[str]) -> None:
    """Check that a job has ended with one line."""
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr.startswith(SAYS), ended.stderr
    assert "No space left" in ended.stderr or "could not write a file" in ended.stderr, ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr


def test_fit_ends_on_full_disk_and_resumes(disk: Path, tmp_path: Path, head: Head) -> None:
    corpus, whole = tmp_path / "corpus", tmp_path / "fit"
    words = (f"labelled={corpus}", *(word.removeprefix("fit.") for word in FIT))
    for job, *settings in (
        ("corpus", "documents=560", f"output={corpus}"),
        ("fit", *words, f"output={whole}"),
    ):
        done = run(head, job, *settings)
        assert done.returncode == 0, done.stdout + done.stderr
    resize(disk, kilobytes(whole) // 2)
    check_says_full(run(head, "fit", *words, f"output={disk}/fit"))
    assert not is_finished(f"{disk}/fit")
    resize(disk, LARGE)
    resumed = run(head, "fit", *words, f"output={disk}/fit")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    weights = "classifier/head.safetensors"
    assert (disk / "fit" / weights).read_bytes() == (whole / weights).read_bytes()


def test_every_stage_ends_on_full_disk_and_resumes(disk: Path, tmp_path: Path, head: Head) -> None:
    """The disk becomes full in the middle of each stage, and is larger for the next run."""
    write_input(tmp_path / "documents")
    stages = all_stages.names()
    words = (
        *all_stages.WORDS,
        "pretrain.max_failures=0",
        "finetune.max_failures=0",
        f"input={tmp_path}/documents",
    )
    whole = run(head, "pipeline", *words, f"output={tmp_path}/runs")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    resumed = (*words, f"output={disk}/runs")
    for before, stage in zip(["", *stages], stages, strict=False):
        if before:
            resize(disk, LARGE)
            done = run(head, "pipeline", *resumed, f"until={before}")
            assert done.returncode == 0, done.stdout + done.stderr
        resize(disk, kilobytes(disk) + kilobytes(tmp_path / "runs" / stage) // 2)
        ended = run(head, "pipeline", *resumed)
        check_says_full(ended)
        finished = [is_finished(f"{disk}/runs/{name}") for name in stages]
        assert finished.count(True) == stages.index(stage), f"not {stage}, but {finished}"
    resize(disk, LARGE)
    last = run(head, "pipeline", *resumed)
    assert last.returncode == 0, last.stdout + last.stderr
    assert differences(contents(tmp_path / "runs"), contents(disk / "runs")) == (0, [])
