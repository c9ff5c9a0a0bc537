"""A run of `rewrite` or `pack` that ends just before its record: the next one repeats nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from endpoint import Endpoint
from rewrite_runs import rows_of, writer, written_by
from small_datasets import write_scored

from jobs.pack import PackConfig, pack_documents
from jobs.rewrite import rewrite_documents
from safety_ray.core import dataset
from safety_ray.core.artifact import Artifact

pytestmark = pytest.mark.covers("jobs.rewrite", "jobs.pack", "safety_ray.rewrite", "safety_ray.pack")


def interrupt(run: Callable[[Any], dict[str, Any]], config: Any) -> None:
    """Run a stage up to its record."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Artifact, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config)


def texts_requested(endpoint: Endpoint) -> int:
    return sum(bool(request["body"]) for request in endpoint.requests)  # other requests ask for the models


def test_rewrite_stage_killed_before_record_counts_attempts(
    tmp_path: Path, scored: Path, classifier: Path, ray_cluster: None
) -> None:
    with Endpoint(writer) as endpoint:
        config = written_by(
            endpoint, scored, classifier, str(tmp_path / "out"), recipes=["rephrase", "refuse"]
        )
        interrupt(rewrite_documents, config)
        requests = texts_requested(endpoint)
        record = rewrite_documents(config)
        assert texts_requested(endpoint) == requests, "nothing was written twice"
    outcomes = record["attempts"]
    assert sum(sum(counts.values()) for counts in outcomes.values()) == requests
    assert sum(outcomes["direct"].values()) > outcomes["direct"]["accepted"], "and some were tried again"
    answered = requests - sum(counts.get("engine", 0) for counts in outcomes.values())
    assert record["tokens"]["reply_tokens"] == 5 * answered
    assert not {"drafts", "outcomes"} & {path.name for path in (tmp_path / "out").iterdir()}


def test_pack_stage_killed_before_record_keeps_its_rows(tmp_path: Path, ray_cluster: None) -> None:
    rows = write_scored(tmp_path / "scored", 60, split=False)
    rows[0]["score"] = None  # rejected
    dataset.write_table(pa.Table.from_pylist(rows), str(tmp_path / "scored" / "part-0.parquet"))
    config = PackConfig(
        scored=str(tmp_path / "scored"), output=str(tmp_path / "out"), vocab_size=500, row_length=64,
        shards=2, max_rejected=0.5,
    )  # fmt: skip
    interrupt(pack_documents, config)
    out = tmp_path / "out"

    def times(folder: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (out / folder).rglob("*.parquet")}

    encoded, shards = times("encoded/data"), times("data")
    assert encoded, "kept until there is a record, because a resumed run counts its rows"
    assert len(shards) == 2
    record = pack_documents(config)
    assert times("data") == shards
    assert (record["rows_in"], record["rejected"]) == (60, 1)
    assert [row["id"] for row in rows_of(str(out), "rejected")] == [rows[0]["id"]]
    assert not (out / "encoded").exists()
