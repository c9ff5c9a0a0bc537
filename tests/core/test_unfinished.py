"""Killed runs of a stage, in the record of the stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from safety_ray.core import artifact, lost_work, unfinished
from safety_ray.core.config import setting

RUN = """
import sys, time
from test_unfinished import CountConfig
from safety_ray.core import artifact, progress, unfinished
unfinished.EVERY_S = 0.05
artifact.begin(sys.argv[1], CountConfig(output=sys.argv[1]), inputs={})
line = progress.Line("count", 10, first=0, saved=sys.argv[2] == "saved")
for done in range(1, 10):
    line.show(done)
    time.sleep(0.1)
print("idle", flush=True)
time.sleep(3600)
"""
SHOWN_S = 0.9
"""duration of the part of a run in which it shows progress"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CountConfig:
    output: str = setting("folder to write", identity=False)


def run_and_kill(output: Path, *, saved: bool, idle_s: float) -> float:
    """Kill a run of a stage that has been idle for `idle_s` seconds. Returns what it had noted as unsaved."""
    words = [sys.executable, "-c", RUN, str(output), "saved" if saved else "repeated"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        eventually(lambda: process.stdout.readline() == b"idle\n", 60)  # after the progress
        least = idle_s if saved else idle_s + SHOWN_S
        eventually(lambda: noted(output).get("unsaved", 0) >= least, 60)
    finally:
        process.kill()
        process.wait()
    return float(noted(output)["unsaved"])


def noted(output: Path) -> dict[str, Any]:
    file = output / unfinished.FILE
    values: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return values


def test_record_has_killed_runs_and_their_seconds(tmp_path: Path) -> None:
    output = tmp_path / "out"
    seconds = run_and_kill(output, saved=True, idle_s=0.3)
    seconds += run_and_kill(output, saved=False, idle_s=0.2)
    out = artifact.begin(str(output), CountConfig(output=str(output)), inputs={})
    record = out.commit(rows_in=1, rows_out=1)
    assert record["lost_work"] == {"runs": 2, "seconds": pytest.approx(seconds, abs=0.05)}
    assert lost_work.describe(record) == f"lost work: 2 runs, {record['lost_work']['seconds']} s"
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "record.json"]


def test_run_killed_before_it_noted_anything_is_counted(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    artifact.begin(output, CountConfig(output=output), inputs={})
    record = artifact.begin(output, CountConfig(output=output), inputs={}).commit(rows_in=1, rows_out=1)
    assert record["lost_work"] == {"runs": 1, "seconds": 0.0}


def test_undisturbed_stage_has_no_lost_work(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    record = artifact.begin(output, CountConfig(output=output), inputs={}).commit(rows_in=1, rows_out=1)
    assert lost_work.KEY not in record


def test_damaged_note_of_killed_run_stops_no_stage(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    artifact.begin(output, CountConfig(output=output), inputs={})
    (tmp_path / "out" / unfinished.FILE).write_text('{"runs": 1, "sec')
    record = artifact.begin(output, CountConfig(output=output), inputs={}).commit(rows_in=1, rows_out=1)
    assert record["lost_work"] == {"runs": 1, "seconds": 0.0}


def test_finished_folder_loses_note_of_a_run_killed_in_commit(tmp_path: Path) -> None:
    output = tmp_path / "out"
    artifact.begin(str(output), CountConfig(output=str(output)), inputs={}).commit(rows_in=1, rows_out=1)
    for name in (unfinished.FILE, f"{unfinished.FILE}.part"):
        (output / name).write_text("{}")
    assert artifact.begin(str(output), CountConfig(output=str(output)), inputs={}).finished
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "record.json"]
