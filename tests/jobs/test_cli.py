"""The command `safety-ray`, and jobs run as modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import JOBS, command, usage
from safety_ray.core.config import describe

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", JOBS)
def test_cli_lists_and_describes_every_job(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = JOBS[name][0]()
    with pytest.raises(SystemExit) as ended:
        command([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == describe(config).strip()
    assert f"\n  {name} " in usage()


def test_cli_knows_every_job_module() -> None:
    modules = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__", "cli"}
    assert modules == set(JOBS)


def test_cli_suggests_nearest_job_for_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["scor"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: unknown job 'scor'; the nearest is 'score'.\n"


@pytest.mark.parametrize("start", [["-m", "jobs.cli"], ["-m", "jobs.corpus"]])
def test_cli_runs_job_as_command_and_module(tmp_path: Path, start: list[str]) -> None:
    job = ["corpus"] if start[1] == "jobs.cli" else []
    words = [*job, f"output={tmp_path}/out", "documents=700"]
    done = subprocess.run([sys.executable, *start, *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("700 rows in, 700 rows out")
