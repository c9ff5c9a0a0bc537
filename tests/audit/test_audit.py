"""The audit against populations with known labels, against sklearn and scipy, and on a real Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from audit_population import LEVELS, drawn, population, truth
from matplotlib.image import imread
from scipy.stats import beta
from sklearn.metrics import precision_score, recall_score

from jobs.audit import AuditConfig, audit_scores
from safety_ray.audit.audit import Strata, choose, estimate, per_score, per_threshold
from safety_ray.audit.sampling import merge, tally
from safety_ray.core import dataset
from safety_ray.core.config import from_dict
from safety_ray.core.errors import UserError

HOW = {"draws": 2000, "seed": 0}


def test_audit_matches_sklearn_on_full_sample() -> None:
    table = population(3000)
    strata = drawn(table, per_score=3000, seed=0)
    scores, labels = (np.array(table.column(name)) for name in ("score", "label"))
    for row in per_threshold(strata, 3, {}, **HOW):
        expected = truth(table, row["threshold"], 3)
        expected["safe_lost"] = recall_score(labels < 3, scores >= row["threshold"])
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-4)
            assert row[f"{name}_interval"] == [row[name]] * 2
        assert row["removed_documents"] == pytest.approx((scores >= row["threshold"]).mean(), abs=1e-4)
    precisions = precision_score(labels, scores, labels=LEVELS, average=None)
    recalls = recall_score(labels, scores, labels=LEVELS, average=None)
    for row in per_score(strata, 3, **HOW):
        assert row["precision"] == pytest.approx(precisions[row["score"]], abs=1e-4)
        assert row["recall"] == pytest.approx(recalls[row["score"]], abs=1e-4)
        assert row["unsafe"] == pytest.approx((labels[scores == row["score"]] >= 3).mean(), abs=1e-4)


@pytest.mark.parametrize(("hits", "n"), [(0, 100), (3, 40), (60, 60), (25, 50)])
def test_audit_interval_matches_jeffreys_for_one_stratum(hits: int, n: int) -> None:
    labels = np.zeros((6, 6), np.int64)
    labels[4, 5], labels[4, 0] = hits, n - hits
    documents = np.array([0, 0, 0, 0, 10_000_000, 0])
    found = estimate(Strata(documents, labels), LEVELS >= 3, LEVELS == 4, draws=40_000, seed=0)
    low, high = beta.ppf([0.025, 0.975], hits + 0.5, n - hits + 0.5)
    low, high = (low if hits else 0.0), (high if hits < n else 1.0)  # Brown, Cai and DasGupta (2001)
    assert found["precision_interval"] == pytest.approx([low, high], abs=4e-3)


def test_audit_sample_depends_only_on_seed_and_id() -> None:
    table = population(2000)

    def ids(table: pa.Table, seed: int, block: int) -> list[str]:
        cut = [table.slice(n, block) for n in range(0, len(table), block)]
        return merge((tally(t, seed=seed, per_score=20, labels="") for t in cut), 20)[1]

    first = ids(table, 0, 100)
    assert len(first) == len(set(first)) == 120
    assert first == ids(table.take(np.random.default_rng(0).permutation(2000)), 0, 33)
    assert set(first) != set(ids(table, 1, 100))


def test_audit_choose_returns_threshold_for_wanted_metric() -> None:
    rows = [
        {
            "threshold": t,
            "recall": r,
            "recall_interval": [r - 0.05, r],
            "precision": p,
            "precision_interval": [p, p],
        }
        for t, r, p in [(1, 1.0, 0.2), (2, 0.96, 0.4), (3, 0.80, 0.8), (4, 0.5, 0.9), (5, 0.2, None)]
    ]
    assert choose(rows, {"recall": 0.95}) == (2, False)
    assert choose(rows, {"recall": 0.75}) == (3, True)
    assert choose(rows, {"precision": 0.7}) == (3, True)
    assert choose(rows, {"precision": 0.95}) == (None, False)
    assert choose(rows, {}) == (None, False)


def test_audit_strata_rejects_score_without_labels() -> None:
    labels = np.zeros((6, 6), np.int64)
    labels[0, 0] = 5
    with pytest.raises(UserError, match="none of the 7 documents with score 2 has a label"):
        Strata(np.array([90, 0, 7, 0, 0, 0]), labels).check()


def test_audit_stage_writes_report_from_label_column(
    tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    table = population(1500)
    tokens = pa.array([2 + s for s in table.column("score").to_pylist()], pa.int64())
    table = table.append_column("token_count", tokens)
    for n in range(3):
        dataset.write_table(table.slice(n * 500, 500), str(tmp_path / "in" / f"{n}.parquet"))
    config = AuditConfig(
        scored=str(tmp_path / "in"), output=str(tmp_path / "out"), labels="label", per_score=60,
        wanted={"recall": 0.7},
    )  # fmt: skip
    record = audit_scores(config)
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    sizes = [min(60, int((np.array(table.column("score")) == s).sum())) for s in range(6)]
    assert [row["sampled"] for row in found["scores"]] == sizes
    assert (record["rows_in"], record["rows_out"]) == (sum(sizes), sum(sizes))
    assert record["threshold"] == found["threshold"] is not None
    scores = np.array(table.column("score"))
    for row in found["thresholds"]:
        at = scores >= row["threshold"]
        assert row["removed_documents"] == pytest.approx(at.mean(), abs=1e-4)
        for name, size in (("characters", 10 + 5 * scores), ("tokens", 2 + scores)):
            assert row[f"removed_{name}"] == pytest.approx(size[at].sum() / size.sum(), abs=1e-4)
        low, high = row["recall_interval"]
        assert low - 0.1 <= truth(table, row["threshold"], 3)["recall"] <= high + 0.1
    page = (tmp_path / "out" / "README.md").read_text()
    assert "Threshold" in page
    assert "reaches a recall of 70%" in page
    assert len([line for line in page.splitlines() if line.startswith("| ")]) == 2 * 2 + 5 + 6
    assert "from score" in capsys.readouterr().out
    assert imread(tmp_path / "out" / "audit.png").shape[0] > 300
    assert audit_scores(config) == record


def test_audit_rejects_invalid_settings_and_inputs(tmp_path: Path, ray_cluster: None) -> None:
    paths = {"scored": "a", "output": "b", "labels": "label"}
    with pytest.raises(UserError, match="a judge needs a language model"):
        AuditConfig(scored="a", output="b")
    with pytest.raises(UserError, match=r"wanted=.* must have one key, recall or precision"):
        from_dict(AuditConfig, {**paths, "wanted": {"recall": 0.9, "precision": 0.9}})
    with pytest.raises(UserError, match="the value must be above 0 and at most 1"):
        from_dict(AuditConfig, {**paths, "wanted": {"recall": 95}})
    dataset.write_table(
        pa.table({"id": ["a"], "text": ["t"], "score": [9], "label": [1]}), str(tmp_path / "in" / "a.parquet")
    )
    config = AuditConfig(scored=str(tmp_path / "in"), output=str(tmp_path / "out"), labels="label")
    with pytest.raises(UserError, match="row 'a' has score 9"):
        audit_scores(config)
    other = AuditConfig(scored=str(tmp_path / "in"), output=str(tmp_path / "other"), labels="truth")
    with pytest.raises(UserError, match="has no column 'truth'"):
        audit_scores(other)
