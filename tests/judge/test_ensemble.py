"""The ensemble of classifier and judge; both scores are kept in columns of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from endpoint import Endpoint, completion

from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import artifact, dataset
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError
from safety_ray.core.records import SCORED, require
from safety_ray.judge.ensemble import combine

JUDGED = {"soup": 1, "threat": 2, "odd": 5, "mute": None}
TEXTS = {
    "soup": "A quiet soup recipe. JUDGED-1",
    "threat": "We will find you and hurt you all, every single one. JUDGED-2",
    "odd": "A quiet walk by the river. JUDGED-5",
    "mute": "A page that no judge understands. MUTE",
}


def judge(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    document = body["messages"][1]["content"].split("<<<DOCUMENT", 1)[1]
    if "MUTE" in document:
        return 200, completion("I cannot say.")
    score = int(document.split("JUDGED-")[1][0])
    return 200, completion(json.dumps({"score": score, "reason": f"it says {score}"}))


def settings(tmp_path: Path, url: str, **more: Any) -> ScoreConfig:
    engine = {"kind": "openai", "model": "judge-7b", "base_url": url, "api_key_env": "", "concurrency": 4}
    values = {
        "documents": str(tmp_path / "in"), "output": str(tmp_path / "out"), "judge": engine,
        "max_rejected": 0.5, "actors": 1, **more,
    }  # fmt: skip
    return from_dict(ScoreConfig, values)


def test_ensemble_keeps_both_scores_and_takes_maximum(
    tmp_path: Path, ray_cluster: None, classifier: Path
) -> None:
    # Each text occurs three times, in two files.
    ids = [f"{name}-{n}" for n in range(3) for name in TEXTS]
    table = pa.table({"id": ids, "text": [TEXTS[i.split("-")[0]] for i in ids], "colour": ["red"] * 12})
    dataset.write_table(table.slice(0, 7), str(tmp_path / "in" / "a.parquet"))
    dataset.write_table(table.slice(7), str(tmp_path / "in" / "b.parquet"))
    with Endpoint(judge) as endpoint:
        config = settings(tmp_path, endpoint.url, scorers="both", classifier=str(classifier))
        record = score_documents(config)
        asked = [r for r in endpoint.requests if r["path"].endswith("/chat/completions")]
        requests = len(endpoint.requests)
        assert score_documents(config) == record
        assert len(endpoint.requests) == requests
    assert len(asked) == 5, "four texts, and the one that gave no judgement once more"
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (12, 9, 3)
    assert (record["scored_texts"], record["copies"]) == (4, 8)
    assert (record["judge"], record["judge_shortened"]) == ("openai:judge-7b", 0)
    fitted = artifact.read_record(str(classifier))
    assert fitted is not None
    assert record["inputs"]["classifier"] == fitted["fingerprint"]
    own = dict(zip(TEXTS, Classifier.load(classifier).predict(list(TEXTS.values())), strict=True))
    assert own["threat"].score > 2, "the two scorers must disagree for this test to say anything"
    rows = dataset.table(str(tmp_path / "out")).to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(i for i in ids if "mute" not in i)
    require(SCORED, list(rows[0]), "out")
    for row in rows:
        name = row["id"].split("-")[0]
        assert row["text"] == TEXTS[name]
        assert row["classifier_score"] == own[name].score
        assert row["probs"] == pytest.approx(own[name].probs, abs=0.02)
        assert row["scored_chunks"] == own[name].scored_chunks
        assert (row["judge_score"], row["judge_reason"]) == (JUDGED[name], f"it says {JUDGED[name]}")
        assert row["judged_by"] == "openai:judge-7b"
        assert row["score"] == max(own[name].score, JUDGED[name])
        assert row["colour"] == "red"
    rejected = [
        row
        for file in (tmp_path / "out" / "rejected").rglob("*.parquet")
        for row in pads.dataset(file, format="parquet").to_table().to_pylist()
    ]
    assert sorted(row["id"] for row in rejected) == ["mute-0", "mute-1", "mute-2"]
    for row in rejected:
        assert (row["score"], row["classifier_score"]) == (None, own["mute"].score)
        assert row["rejected_reason"] == "the judge's reply is not a JSON object"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json", "data", "record.json", "rejected",
    ]  # fmt: skip


def test_score_stage_runs_judge_only_without_classifier(tmp_path: Path, ray_cluster: None) -> None:
    # An older score of the input gives way to the judge's.
    table = pa.table({"id": ["odd"], "text": [TEXTS["odd"]], "score": [0], "probs": [[1.0]]})
    dataset.write_table(table, str(tmp_path / "in" / "a.parquet"))
    with Endpoint(judge) as endpoint:
        record = score_documents(settings(tmp_path, endpoint.url, scorers="judge"))
    assert set(record["inputs"]) == {"documents"}
    (row,) = dataset.table(str(tmp_path / "out")).to_pylist()
    require(SCORED, list(row), "out")
    assert (row["score"], row["judge_score"], row["probs"], row["scored_chunks"]) == (5, 5, None, None)


@pytest.mark.parametrize(
    ("ensemble", "expected"),
    [("max", [3, 4, None]), ("classifier", [3, 1, None]), ("judge", [2, 4, None])],
)
def test_ensemble_setting_selects_final_score(ensemble: str, expected: list[int | None]) -> None:
    scores = pa.array([3, 1, 5], pa.int8())
    batch = pa.table({"classifier_score": scores, "score": scores})
    batch = batch.append_column("judge_score", pa.array([2, 4, None], pa.int8()))
    found = combine(batch, ensemble, judge_only=False)
    assert found.column("score").to_pylist() == expected
    assert found.schema.field("score").type == pa.int8()
    assert combine(found, ensemble, judge_only=False).column("score").to_pylist() == expected


def test_score_config_rejects_contradictory_scorer_settings() -> None:
    judge = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    paths = {"documents": "a", "output": "b"}
    with pytest.raises(UserError, match=r"set judge\.kind to vllm or openai"):
        from_dict(ScoreConfig, {**paths, "scorers": "judge"})
    with pytest.raises(UserError, match="scorers=classifier uses no judge"):
        from_dict(ScoreConfig, {**paths, "classifier": "c", "judge": judge})
    with pytest.raises(UserError, match="ensemble=judge needs scorers=both"):
        from_dict(ScoreConfig, {**paths, "scorers": "judge", "judge": judge, "ensemble": "judge"})


@pytest.mark.parametrize("ensemble", ["max", "classifier", "judge"])
def test_combine_takes_judge_where_classifier_has_no_score(ensemble: str) -> None:
    batch = pa.table(
        {"classifier_score": pa.array([None, 3], pa.int8()), "judge_score": pa.array([2, None], pa.int8())}
    )
    assert combine(batch, ensemble, judge_only=False).column("score").to_pylist() == [2, None]
