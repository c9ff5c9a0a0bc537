"""Structured log, cost and metrics of a write."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from ray_head import Head
from waiting import eventually

from safety_ray.core import artifact, cluster, cost, events, job, metrics, progress
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class CountConfig:
    output: str = setting("folder to write", identity=False)
    secret: str = setting("never in the log", default="hunter2")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def count_things(config: CountConfig) -> dict[str, object]:
    out = artifact.begin(config.output, config, inputs={})
    if out.record is None:
        with progress.watch("count", 3, lambda: progress.Done(3, rejected=1, tokens=70)):
            pass
        out.commit(rows_in=3, rows_out=2, rejected=1)
    return out.record or {}


def test_events_are_one_json_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv(events.VARIABLE, str(log))
    count_things(CountConfig(output=str(tmp_path / "out")))
    count_things(CountConfig(output=str(tmp_path / "out")))
    with pytest.raises(SystemExit):
        job.main(CountConfig, count_things, ["colour=red"])  # type: ignore[arg-type]
    found = lines(log)
    assert [line["event"] for line in found] == [
        "stage_started", "write_started", "progress", "write_finished", "stage_finished", "stage_skipped",
        "job_failed",
    ]  # fmt: skip
    assert {line["stage"] for line in found} == {"count"}
    written = found[3]
    assert [written[key] for key in ("part", "done", "total", "rejected", "tokens")] == ["count", 3, 3, 1, 70]
    assert (found[4]["rows_in"], found[4]["rows_out"], found[4]["rejected"]) == (3, 2, 1)
    assert "unknown setting 'colour'" in str(found[6]["error"])
    assert "hunter2" not in log.read_text()


def test_event_follows_an_incomplete_line_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv(events.VARIABLE, str(log))
    events.emit("first")
    with log.open("a") as file:
        file.write('{"event": "cut o')
    events.emit("second")
    events.emit("third", path="not Unicode: \udcff")
    complete = [line for line in log.read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["event"] for line in complete] == ["first", "second", "third"]


def test_events_go_to_standard_error_or_nowhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(events.VARIABLE, raising=False)
    events.emit("stage_started", output="x")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv(events.VARIABLE, "-")
    events.emit("stage_started", output="x")
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["output"]) == ("", "x")
    monkeypatch.setenv(events.VARIABLE, str(tmp_path))  # a folder
    events.emit("stage_started", output="x")
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["GPU", "GPU=free", "GPU=-1", "=2", "CPU=1,GPU=nan"])
def test_prices_reject_what_is_no_price(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(cost.VARIABLE, text)
    with pytest.raises(UserError, match=r"is not a resource with its price per hour, such as CPU=0\.05"):
        cost.prices()


def test_cost_is_time_by_price_of_all_resources(monkeypatch: pytest.MonkeyPatch, ray_cluster: Head) -> None:
    monkeypatch.setenv(cost.VARIABLE, "CPU=3600,GPU=1000000")
    before = time.monotonic()
    so_far = cost.Cost()
    started = time.monotonic()
    time.sleep(0.01)
    ended = time.monotonic()
    total = so_far()
    # 1 a second for each of the cluster's CPUs; it has no GPU.
    assert total is not None
    assert ended - started <= total / cluster.SLOTS <= time.monotonic() - before
    monkeypatch.delenv(cost.VARIABLE)
    assert cost.Cost()() is None


def test_stage_metrics_reach_prometheus_once(ray_cluster: Head) -> None:
    import ray

    def exported() -> dict[str, float]:
        [node] = [node for node in ray.nodes() if node["Alive"]]
        text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=None).text
        mine = [line for line in text.splitlines() if 'part="measured"' in line]
        return {
            line.split("{")[0].removeprefix("ray_safety_stage_"): float(line.split()[-1]) for line in mine
        }

    write = metrics.StageMetrics("score", "measured", 500)
    write.update(rows=100, rejected=0, tokens=0, seconds=0.5, cost=0.0)  # rows of an interrupted run
    write.update(rows=140, rejected=4, tokens=70, seconds=1.5, cost=0.25)
    write.update(rows=150, rejected=4, tokens=90, seconds=3.0, cost=0.5)
    expected = {
        "rows_total": 50.0, "rejected_total": 4.0, "tokens_total": 90.0, "seconds_total": 3.0,
        "cost_total": 0.5, "rows_expected": 500.0,
    }  # fmt: skip
    eventually(lambda: exported() == expected, told=exported)
