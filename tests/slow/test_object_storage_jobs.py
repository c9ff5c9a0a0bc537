"""Every job with its inputs and outputs on an S3-compatible server that is busy at times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint
from every_job import CHATS, JUDGE_KEY, commands, judge
from object_storage import answering, head, record_of, server
from ray_head import Head
from refused import ROOT, run
from s3_server import BUCKET, SLOW_DOWN, S3Server

from jobs.cli import JOBS

pytestmark = pytest.mark.covers("jobs", "safety_ray")
__all__ = ["answering", "head", "server"]


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    """Set the judge's key before the cluster starts, whose workers read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JUDGE_KEY, "key")
        yield


def test_every_job_reads_and_writes_busy_object_storage(
    server: S3Server, head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server.put("chats.jsonl", (ROOT / CHATS).read_bytes())
    server.refuse = lambda method, path, number: SLOW_DOWN if number % 11 == 0 else None
    with Endpoint(judge) as endpoint:
        jobs = commands(f"s3://{BUCKET}/all", endpoint.url, chats=f"s3://{BUCKET}/chats.jsonl")
        for name, words in jobs.items():
            ended = run(head, name, *words)
            assert ended.returncode == 0, f"{name}: {ended.stdout}{ended.stderr}"
    files = {
        "merge": "all/parts/record.json",
        "ablate": "all/ablate/metrics.json",
        "pipeline": "all/summary.json",
    }
    expected = {files.get(name, f"all/{name}/record.json") for name in JOBS}
    assert expected <= set(server.keys("all/"))
    assert server.refused > server.seen.total() // 12
    assert record_of(server, "all/label")["rows_out"] > 0
    assert not Path("s3:").exists()
