"""Kill −9 of the driver, of an actor, of a node: no id is lost, none is twice, little is done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from waiting import eventually

from safety_ray import dataset
from safety_ray.artifact import read_record

ROWS = 1600
REPEATED = 0.05
"""share of the finished work that may be done again"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = pa.table(
        {"id": [f"d{n:04}" for n in range(ROWS)], "text": [f"text {n} " + "x" * (n % 7) for n in range(ROWS)]}
    )
    for n in range(4):
        dataset.write_table(table.slice(n * ROWS // 4, ROWS // 4), str(tmp_path / "in" / f"{n}.parquet"))
    return tmp_path


def start(folder: Path, classifier: Path, nodes: int = 1) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("killed_process.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    environment.pop("RAY_ADDRESS", None)
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(script), str(folder), str(classifier), str(nodes)],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def seen(folder: Path) -> dict[int, list[str]]:
    """The ids that each actor's process was done with; the last line may be half written."""
    return {int(f.name): f.read_text().split("\n")[:-1] for f in (folder / "seen").glob("*")}


def wait_for(folder: Path, rows: int, process: subprocess.Popen[bytes]) -> dict[int, list[str]]:
    while sum(map(len, seen(folder).values())) < rows:
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)
    return seen(folder)


def check(folder: Path) -> None:
    """The output is whole, and each row has the score that its text has."""
    assert (folder / "done").exists(), (folder / "log").read_text()
    record = read_record(str(folder / "out"))
    assert record is not None
    assert (record["rows_in"], record["rows_out"], record["set_aside"]) == (ROWS, ROWS, 0)
    found = dataset.table(str(folder / "out"))
    assert found.column("id").to_pylist() == [f"d{n:04}" for n in range(ROWS)]
    assert [len(t) % 6 for t in found.column("text").to_pylist()] == found.column("score").to_pylist()


def doubled(folder: Path) -> int:
    """Rows that were done more than once."""
    times = Counter(id for ids in seen(folder).values() for id in ids)
    return sum(n > 1 for n in times.values())


def test_a_killed_actor_is_replaced_and_a_killed_driver_goes_on(folder: Path, classifier: Path) -> None:
    process = start(folder, classifier)
    found = wait_for(folder, int(0.4 * ROWS), process)
    (folder / "hold").touch()  # or the other actor does all the rest before there is a new one
    os.kill(next(pid for pid, ids in found.items() if ids), signal.SIGKILL)
    eventually(lambda: len(seen(folder)) == 3, 300, told=lambda: "nothing took the killed actor's place")
    (folder / "hold").unlink()
    wait_for(folder, int(0.7 * ROWS), process)
    assert doubled(folder) < REPEATED * 0.4 * ROWS
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its actors end, too
    before = seen(folder)
    assert sum(map(len, before.values())) < ROWS
    assert not (folder / "out" / "record.json").exists()
    again = start(folder, classifier)
    again.wait()
    check(folder)
    assert doubled(folder) < REPEATED * sum(map(len, before.values()))


def test_a_killed_node_takes_nothing_with_it(folder: Path, classifier: Path) -> None:
    process = start(folder, classifier, nodes=2)
    found = wait_for(folder, ROWS // 2, process)
    os.kill(int((folder / "raylet").read_text()), signal.SIGKILL)
    process.wait()
    check(folder)
    assert len(seen(folder)) > len(found), "actors began anew on the node that is left"
    assert doubled(folder) < REPEATED * ROWS / 2
