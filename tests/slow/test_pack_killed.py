"""SIGKILL during a pack: its shards, held-out documents and counts are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from gate import ALL, allow, waiting
from killed import (
    ended,
    kill_driver,
    on_node,
    start,
    wait_for,
    wait_for_checkpoints,
    with_second_node,
)
from pack_job import ENCODE, SHARDS
from ray_head import Head
from small_datasets import write_rewritten, write_scored

from jobs.pack import PackConfig, pack_documents
from safety_ray.core.config import load

pytestmark = pytest.mark.covers("jobs.pack", "safety_ray.pack", "safety_ray.core.dataset")
DOCUMENTS, FILES, NUMBER_OF_SHARDS = 800, 16, 8
READERS = {".parquet": partial(pq.read_table, partitioning=None)}
DIFFERS = ("finished", "seconds", "config", "lost_work")
"""entries of a record that say when and where the job ran"""


class Undisturbed:
    """Settings of a job, with their inputs, and the output of a run in which nothing is killed."""

    def __init__(self, folder: Path) -> None:
        scored = write_scored(folder / "scored", DOCUMENTS, split=False, files=FILES)
        write_rewritten(folder / "rewritten", scored, files=FILES)
        self.words = [
            f"scored={folder}/scored", f"rewritten={folder}/rewritten", f"shards={NUMBER_OF_SHARDS}",
            "vocab_size=500", "row_length=64", "tag_rate=0.3", "heldout_share=0.1",
        ]  # fmt: skip
        pack_documents(load(PackConfig, [*self.words, f"output={folder}/out"]))
        self.contents = contents(folder / "out")


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: Head, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


def contents(output: Path) -> dict[str, Any]:
    """Return all files of a finished output folder by name: tables, the record's entries, and bytes."""
    found: dict[str, Any] = {}
    for path in filter(Path.is_file, output.rglob("*")):
        read: Any = READERS.get(path.suffix, Path.read_bytes)
        found[str(path.relative_to(output))] = read(path)
    del found["config.json"]
    record = json.loads(found.pop("record.json"))
    return found | {f"record: {key}": value for key, value in record.items() if key not in DIFFERS}


def start_pack(head: Head, folder: Path, undisturbed: Undisturbed) -> subprocess.Popen[bytes]:
    return start("pack_job.py", head, folder, *undisturbed.words, f"output={folder}/out")


def shard_files(folder: Path) -> dict[Path, int]:
    """Return the shards that exist, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "out" / "data").glob("shard-*.parquet")}


def check_output(process: subprocess.Popen[bytes], folder: Path, undisturbed: Undisturbed) -> None:
    """Wait for the end of the job, and check that its output is that of the undisturbed run."""
    ended(process, folder)
    assert process.returncode == 0
    found = contents(folder / "out")
    assert len([name for name in found if name.startswith("data/shard-")]) == NUMBER_OF_SHARDS
    assert found.keys() == undisturbed.contents.keys()
    assert [name for name in found if found[name] != undisturbed.contents[name]] == []
    assert len(found["heldout/heldout.parquet"]) > 0


def test_pack_resumes_after_driver_kills(undisturbed: Undisturbed, tmp_path: Path, head: Head) -> None:
    encode, shards = tmp_path / ENCODE, tmp_path / SHARDS
    allow(encode, FILES // 4)
    allow(shards, 2)
    process = start_pack(head, tmp_path, undisturbed)
    wait_for_checkpoints(tmp_path, 1, process)
    kill_driver(process, wait_for(lambda: waiting(encode), tmp_path, process))
    assert list((tmp_path / "out" / "encoded" / "data" / "web").glob("*.parquet"))
    assert not shard_files(tmp_path)
    allow(encode, ALL)
    process = start_pack(head, tmp_path, undisturbed)
    wait_for(lambda: len(shard_files(tmp_path)) == 2, tmp_path, process)
    kill_driver(process, wait_for(lambda: waiting(shards), tmp_path, process))
    finished = shard_files(tmp_path)
    assert len(finished) == 2
    allow(shards, ALL)
    check_output(start_pack(head, tmp_path, undisturbed), tmp_path, undisturbed)
    assert finished.items() <= shard_files(tmp_path).items(), "finished shards were not written again"


def test_pack_repeats_tasks_of_killed_workers(undisturbed: Undisturbed, tmp_path: Path, head: Head) -> None:
    for name in (ENCODE, SHARDS):
        allow(tmp_path / name, 2)
    process = start_pack(head, tmp_path, undisturbed)
    for name in (ENCODE, SHARDS):
        workers = wait_for(lambda name=name: waiting(tmp_path / name), tmp_path, process)
        os.kill(min(workers), signal.SIGKILL)
        allow(tmp_path / name, ALL)
    check_output(process, tmp_path, undisturbed)


@pytest.mark.parametrize("step", [ENCODE, SHARDS])
def test_pack_repeats_tasks_of_killed_node(
    step: str, undisturbed: Undisturbed, tmp_path: Path, lossy_head: Head
) -> None:
    for name in (ENCODE, SHARDS):
        allow(tmp_path / name, 2 if name == step else ALL)
    (tmp_path / "wait").touch()
    process = start_pack(lossy_head, tmp_path, undisturbed)
    node = with_second_node(lossy_head, tmp_path, process, cpus=6)
    try:
        wait_for(lambda: on_node(node, waiting(tmp_path / step)), tmp_path, process)
        os.kill(node.raylet(), signal.SIGKILL)
        allow(tmp_path / step, ALL)
        check_output(process, tmp_path, undisturbed)
    finally:
        node.stop()
