"""Jobs on an S3-compatible server: many files, multipart writes, busy answers, refused writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from object_storage import DOCUMENTS, answering, corpus, head, record_of, server
from ray_head import Head
from refused import SAYS, STAGES, run
from s3_server import BUCKET, DENIED, EXPIRED, SLOW_DOWN, Fault, S3Server
from token_rows import alone, tokenizer, write_rows
from training_runs import TINY, losses, settings
from training_runs import run as run_training

from benchmarks.chaos.driver import DEMO
from benchmarks.chaos.driver import SMALL as TINY_STAGES
from safety_ray.core import artifact, dataset, row_sink
from safety_ray.ingest.readers import list_files

pytestmark = pytest.mark.covers("jobs", "safety_ray.core", "safety_ray.pack", "safety_ray.train")
__all__ = ["alone", "answering", "head", "server", "tokenizer", "write_rows"]
FILES = 10_000
SMALL = (
    f"classifier=s3://{BUCKET}/fit", "rewrite.engine.kind=template", "rewrite.max_rejected=0.9",
    "pack.vocab_size=1024", "pack.row_length=128",
)  # fmt: skip


def test_readers_list_many_files_in_few_requests(server: S3Server) -> None:
    for n in range(FILES):
        server.put(f"many/{n:05}.jsonl", b"{}\n")
    before = server.seen.total()
    listed = list_files(f"s3://{BUCKET}/many")
    assert listed == [f"s3://{BUCKET}/many/{n:05}.jsonl" for n in range(FILES)]
    assert artifact.input_fingerprint(f"s3://{BUCKET}/many")
    assert server.seen.total() - before < FILES // 100, "a thousand names in each answer"


def test_write_file_uploads_parts_to_a_busy_server(server: S3Server) -> None:
    from pyarrow.fs import FileSystem

    server.refuse = lambda method, path, number: SLOW_DOWN if number % 3 == 0 else None
    values = np.random.default_rng(0).random(4_000_000)
    filesystem, path = FileSystem.from_uri(f"s3://{BUCKET}/large/rows.parquet")
    row_sink.write_file(filesystem, path, pa.table({"id": range(len(values)), "x": values}), ["SLOW_DOWN"])
    assert server.seen["PUT multipart"] >= 3
    assert server.refused > 3
    found = dataset.table(f"s3://{BUCKET}/large")
    assert np.array_equal(found.column("x").to_numpy(), values)


def test_pipeline_runs_on_a_busy_server(server: S3Server, head: Head) -> None:
    ids = corpus(server)
    server.refuse = lambda method, path, number: SLOW_DOWN if number % 11 == 0 else None
    fitted = run(head, "fit", f"labelled=s3://{BUCKET}/pages", f"output=s3://{BUCKET}/fit")
    assert fitted.returncode == 0, fitted.stdout + fitted.stderr
    words = ("configs/pipeline/demo.yaml", *SMALL, "until=pack")
    places = (f"input=s3://{BUCKET}/pages", f"output=s3://{BUCKET}/runs")
    done = run(head, "pipeline", *words, *places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert dataset.table(f"s3://{BUCKET}/runs/score").column("id").to_pylist() == ids
    for stage in ("ingest", "score"):
        record = record_of(server, f"runs/{stage}")
        assert (record["rows_in"], record["rows_out"], record["rejected"]) == (DOCUMENTS, DOCUMENTS, 0)
    packed = record_of(server, "runs/pack")
    assert packed["rows_out"] == dataset.count(f"s3://{BUCKET}/runs/pack")
    assert server.keys("runs/report/card.html")
    assert not [key for key in server.keys("runs/") if "_checkpoint" in key or "_INCOMPLETE" in key]
    again = run(head, "pipeline", *words, *places)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("finished earlier, skipped") == 5


def test_training_resumes_from_checkpoints_on_a_busy_server(
    server: S3Server, tmp_path: Path, write_rows: Callable[..., str], alone: None
) -> None:
    rows = write_rows(tmp_path / "rows")
    whole = settings(rows, tmp_path / "whole")
    run_training(whole)
    output = f"s3://{BUCKET}/run"
    config = settings(rows, output, checkpoint_every=3)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt

    server.refuse = lambda method, path, number: SLOW_DOWN if number % 5 == 0 else None
    with pytest.raises(KeyboardInterrupt):
        run_training(config, stop)
    run_training(config)
    assert losses(output) == losses(whole.output)
    steps = {key.split("/")[2] for key in server.keys("run/checkpoints/")}
    assert steps == {"step-00000009", "step-00000012"}
    exported = Path(whole.output) / "model"
    stored = {key.removeprefix("run/model/") for key in server.keys("run/model/")}
    assert stored == {file.name for file in exported.iterdir()}
    weights = server.backend.get_object(BUCKET, "run/model/model.safetensors").value
    assert weights == (exported / "model.safetensors").read_bytes()


def test_training_jobs_read_and_write_object_storage(
    server: S3Server,
    head: Head,
    tmp_path: Path,
    write_rows: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = [f"model.{name}={value}" for name, value in TINY.items()]
    words = ["batch_rows=8", "workers=2", "log_every=1", "precision=fp32"]
    first = [f"rows={write_rows(tmp_path / 'rows')}", f"output=s3://{BUCKET}/first", "max_steps=6", *words]
    ended = run(head, "pretrain", *first, *sizes)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "train" in ended.stdout
    assert "6/6 steps" in ended.stdout
    record = record_of(server, "first")
    lines = server.backend.get_object(BUCKET, "first/metrics.jsonl").value.splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 7))
    # Ray Train's storage marks folders with empty objects whose names end with a slash.
    assert {key.split("/")[1] for key in server.keys("first/") if not key.endswith("/")} == {
        "checkpoints", "config.json", "metrics.jsonl", "model", "record.json",
    }  # fmt: skip
    turns = [{"role": "user", "content": "the quick"}, {"role": "assistant", "content": "brown fox"}]
    chats = "".join(json.dumps({"id": f"c{n}", "messages": turns}) + "\n" for n in range(16))
    server.put("chats.jsonl", chats.encode())
    second = [
        f"model=s3://{BUCKET}/first",
        f"chats=s3://{BUCKET}/chats.jsonl",
        f"output=s3://{BUCKET}/second",
    ]
    ended = run(head, "finetune", *second, "epochs=1", "tagged_share=0", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tuned = record_of(server, "second")
    assert (tuned["rows_in"], tuned["parameters"]) == (16, record["parameters"])
    card = server.backend.get_object(BUCKET, "second/model/README.md").value.decode()
    assert f"- model `s3://{BUCKET}/first/model`: {record['rows_in']} rows in" in card, "its lineage"


@pytest.mark.parametrize(
    ("name", "fault", "says"),
    [("data", EXPIRED, "expired"), ("data", DENIED, "Denied"), ("record.json", DENIED, "Denied")],
)
def test_job_ends_with_one_line_and_resumes_when_writes_are_refused(
    name: str, fault: Fault, says: str, server: S3Server, head: Head
) -> None:
    corpus(server)
    output = f"{name}-{fault[1]}"

    def refuse(method: str, path: str, number: int) -> Fault | None:
        return fault if method in ("PUT", "POST") and f"/{output}/{name}" in path else None

    words = (f"input=s3://{BUCKET}/pages", f"output=s3://{BUCKET}/{output}")
    server.refuse = refuse
    ended = run(head, "ingest", *words)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr.startswith(SAYS), ended.stderr
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not server.keys(f"{output}/record.json")
    server.refuse = lambda method, path, number: None
    resumed = run(head, "ingest", *words)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    record = record_of(server, output)
    assert (record["rows_in"], record["rows_out"]) == (DOCUMENTS, DOCUMENTS)


def test_every_stage_ends_when_writes_are_refused_and_resumes(server: S3Server, head: Head) -> None:
    """Credentials expire in the middle of each stage, and are valid again for the next run."""
    ids = corpus(server)
    once = "pretrain.max_failures=0"
    words = (DEMO, *TINY_STAGES, once, f"input=s3://{BUCKET}/pages", f"output=s3://{BUCKET}/refused")
    for stage in STAGES:
        written: list[str] = []

        def refuse(
            method: str, path: str, number: int, stage: str = stage, written: list[str] = written
        ) -> Fault | None:
            if method == "GET" or f"/refused/{stage}/" not in f"{path}/":
                return None
            written.append(path)
            return EXPIRED if len(written) > 2 else None

        server.refuse = refuse
        ended = run(head, "pipeline", *words)
        assert ended.returncode == 2, f"{stage}: {ended.stdout}{ended.stderr}"
        assert SAYS in ended.stderr
        assert "Bad Request" in ended.stderr, "the first request is a HEAD, to which S3 gives no other reason"
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert not server.keys(f"refused/{stage}/record.json")
    server.refuse = lambda method, path, number: None
    finished = run(head, "pipeline", *words)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert dataset.table(f"s3://{BUCKET}/refused/score").column("id").to_pylist() == ids
    packed = record_of(server, "refused/pack")
    assert packed["rows_out"] == dataset.count(f"s3://{BUCKET}/refused/pack")
    assert record_of(server, "refused/pretrain")["steps"] == 40
