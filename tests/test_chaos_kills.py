"""benchmarks/chaos: what it kills, what its driver replaces, and how it reads a run again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from ray._private import ray_constants

from benchmarks.chaos.__main__ import ChaosBenchmark, Run, run_pipeline, unfinished
from benchmarks.chaos.driver import STAGES, note_rows, stages
from benchmarks.chaos.kills import kind_of
from jobs import ingest, pack, score
from safety_ray.core.errors import UserError


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("ray::ReadParquet->MapBatches(to_row)", "worker"),
        ("ray::encode_watched", "worker"),
        ("ray::MapWorker(MapBatches(ScoreBatch)).submit", "actor"),
        ("ray::RayTrainWorker", "actor"),
        ("ray::TrainController.run", "actor"),
        ("ray::_StatsActor", "actor"),
        ("ray::IDLE", ""),
        ("ray-dashboard", ""),
        (ray_constants.AGENT_PROCESS_TYPE_DASHBOARD_AGENT, ""),
        (ray_constants.AGENT_PROCESS_TYPE_RUNTIME_ENV_AGENT, ""),
    ],
)
def test_kind_of_a_process(title: str, kind: str) -> None:
    assert kind_of(title) == kind


def test_driver_replaces_functions_that_jobs_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = [(ingest, "read_watched"), (pack, "encode_watched"), (score, "ScoreBatch")]
    for module, name in replaced:
        monkeypatch.setattr(module, name, getattr(module, name))  # restored after the test
    before = [getattr(module, name) for module, name in replaced]
    note_rows(tmp_path)
    assert all(getattr(module, name) is not old for (module, name), old in zip(replaced, before, strict=True))


def test_chaos_rejects_unknown_kind() -> None:
    with pytest.raises(UserError, match="kinds=nodes is unknown; choose from worker, actor, node"):
        ChaosBenchmark(kinds=["nodes"])
    with pytest.raises(UserError, match="kinds is empty"):
        ChaosBenchmark(kinds=[])


def test_unfinished_is_first_stage_without_record(tmp_path: Path) -> None:
    assert unfinished(tmp_path) == "ingest"
    assert set(STAGES) < set(stages(tmp_path))
    for stage in stages(tmp_path):
        assert unfinished(tmp_path) == stage
        (tmp_path / "runs" / stage).mkdir(parents=True)
        (tmp_path / "runs" / stage / "record.json").touch()
    assert unfinished(tmp_path) == "end"


def test_run_that_has_ended_is_read_again(tmp_path: Path) -> None:
    run = Run(2.5, Counter({"score head": 2, "pack head": 1, "pack node": 1}), 1)
    assert (run.of("head"), run.of("node"), run.of("driver")) == (3, 1, 0)
    (tmp_path / "result.json").write_text(json.dumps(vars(run)))
    assert run_pipeline(tmp_path) == run
