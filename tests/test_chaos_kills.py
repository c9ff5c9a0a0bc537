"""benchmarks/chaos kills no agent of Ray, and its driver replaces functions that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray._private import ray_constants

from benchmarks.chaos.driver import note_rows
from benchmarks.chaos.kills import kind_of
from jobs import ingest, pack, score


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
