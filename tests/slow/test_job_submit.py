"""The same commands on a cluster: jobs submitted to a real head node with `ray job submit`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import RAY, Head, job_server_status, start_head

pytestmark = pytest.mark.covers("jobs", "safety_ray.core.cluster", "safety_ray.core.job")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head node with a job server."""
    started = start_head(4, dashboard=True)
    yield started
    print(started.log())  # shown with the tests that fail because of it
    started.stop()


def submit(head: Head, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RAY, "job", "submit", "--address", head.jobs, "--working-dir", ".", "--", *command],
        cwd=ROOT, env=head.env, capture_output=True, text=True,
    )  # fmt: skip


def test_job_submit_runs_jobs_on_cluster(head: Head, tmp_path: Path) -> None:
    corpus, documents = tmp_path / "corpus", tmp_path / "documents"
    first = f"export SAFETY_RAY_EVENTS=-; python -m jobs.corpus output={corpus} documents=700"
    # A stage with Ray Data: its workers also import the package from the uploaded folder.
    second = f"python -m jobs.ingest input={corpus}/data output={documents}"
    done = submit(head, "bash", "-c", f"{first} && {second}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert f"Ray dashboard: {head.jobs}/#/jobs/" in done.stdout
    started = [line for line in done.stdout.splitlines() if '"event": "stage_started"' in line]
    assert [json.loads(line)["stage"] for line in started] == ["corpus", "ingest"]
    made = json.loads((corpus / "record.json").read_text())
    assert made["rows_in"] == made["rows_out"] == 700
    read = json.loads((documents / "record.json").read_text())
    assert read["rows_in"] == read["rows_out"] + read["rejected"] == 700


def test_job_submit_reports_user_error_without_traceback(head: Head, tmp_path: Path) -> None:
    done = submit(head, *f"python -m jobs.corpus output={tmp_path}/x document=700".split())
    assert done.returncode != 0
    assert "unknown setting 'document'; the nearest is 'documents'" in done.stdout
    assert "Traceback" not in done.stdout


def test_job_server_rejects_missing_or_wrong_token(head: Head) -> None:
    assert job_server_status(head.jobs, None) == 401
    assert job_server_status(head.jobs, "0" * 64) in (401, 403)
