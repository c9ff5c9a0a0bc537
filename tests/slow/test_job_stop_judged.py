"""`ray job stop` of the jobs that ask a judge, and of `ablate`: the same command resumes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from endpoint import Endpoint, completion
from every_job import commands
from killed import checkpointed
from ray_head import Head, start_head
from submitted import stop_once, submit

from jobs.corpus import documents
from safety_ray.core import dataset
from safety_ray.core.artifact import is_finished, read_record

pytestmark = pytest.mark.covers("jobs.label", "jobs.audit", "jobs.ablate", "safety_ray.core.dataset")
DOCUMENTS = 96
BEFORE = 60
"""answers before the job is stopped"""
WRITE_ROWS = 8


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head node with a job server."""
    started = start_head(4, dashboard=True)
    yield started
    started.stop()


class Judge:
    """Label texts by their lengths. From the answer `BEFORE` on, each answer waits until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []

    def __call__(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        text = body["messages"][-1]["content"]
        if len(self.asked) >= BEFORE:
            self.go.wait()
        self.asked.append(text)
        return 200, completion(json.dumps({"score": len(text) % 6, "reason": "because of its length"}))


def write_documents(folder: Path) -> str:
    """Write documents of the shipped corpus with their labels as scores, and return the folder."""
    rows = [
        {"id": row["id"], "text": row["text"], "score": row["label"]}
        for row in documents(560, 0)[:: 560 // DOCUMENTS][:DOCUMENTS]
    ]
    dataset.write_table(pa.Table.from_pylist(rows), str(folder / "rows.parquet"))
    return str(folder)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return ids and texts of a dataset, by id."""
    rows: list[dict[str, Any]] = dataset.table(str(folder), ["id", "text"]).sort_by("id").to_pylist()
    return rows


@pytest.mark.parametrize("job", ["label", "audit"])
def test_stopped_judging_job_resumes(job: str, head: Head, tmp_path: Path) -> None:
    judge, output = Judge(), tmp_path / "out"
    source, section = {"label": ("documents", "engine"), "audit": ("scored", "judge")}[job]
    with Endpoint(judge) as endpoint:
        command = [
            "python", "-m", f"jobs.{job}", f"{source}={write_documents(tmp_path / 'in')}",
            f"output={output}", f"write_rows={WRITE_ROWS}", f"{section}.kind=openai", f"{section}.model=m",
            f"{section}.base_url={endpoint.url}", f"{section}.api_key_env=",
            f"{section}.batch_size={WRITE_ROWS}", f"{section}.concurrency=4",
        ]  # fmt: skip
        stop_once(head, job, command, lambda: len(checkpointed(output)) >= WRITE_ROWS)
        kept, asked = checkpointed(output), len(judge.asked)
        assert not is_finished(str(output))
        judge.go.set()
        resumed = submit(head, *command)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    record = read_record(str(output))
    assert record is not None
    assert (record["rows_out"], record["rejected"]) == (DOCUMENTS, 0)
    finished = [row["text"] for row in rows_of(tmp_path / "in") if row["id"] in kept]
    assert len(finished) >= WRITE_ROWS
    assert not [text for text in finished for message in judge.asked[asked:] if text in message]
    assert [row["id"] for row in rows_of(output)] == [row["id"] for row in rows_of(tmp_path / "in")]


def test_stopped_ablation_resumes(head: Head, tmp_path: Path) -> None:
    scored = write_documents(tmp_path / "score")
    words = [word for word in commands(str(tmp_path), "")["ablate"] if not word.startswith("output=")]
    assert f"pack.scored={scored}" in words
    values = {}
    for name in ("whole", "stopped"):
        output = tmp_path / name
        command = ["python", "-m", "jobs.ablate", f"output={output}", *words]
        if name == "stopped":
            trained = output / "tags" / "seed-0" / "pretrain"
            stop_once(head, "ablation", command, lambda trained=trained: is_finished(str(trained)))
            assert not (output / "metrics.json").exists()
        done = submit(head, *command)
        assert done.returncode == 0, done.stdout + done.stderr
        values[name] = json.loads((output / "metrics.json").read_text())
    assert values["whole"] == values["stopped"]
