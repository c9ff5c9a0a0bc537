"""The audit's estimates over 200 samples, and labels by a judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from audit_population import drawn, population, truth
from endpoint import Endpoint, completion

from jobs.audit import AuditConfig, audit_scores
from safety_ray.audit.audit import per_threshold
from safety_ray.core import dataset
from safety_ray.core.config import from_dict

pytestmark = pytest.mark.covers("safety_ray.audit", "jobs.audit", "jobs.label")


def test_audit_estimates_are_unbiased_and_intervals_cover_truth() -> None:
    """In 200 samples of one population, 95 % intervals contain the true value in at least 90 %."""
    table = population(8000)
    wanted = {t: truth(table, t, 3) for t in range(1, 6)}
    seeds, found = range(200), {}
    for seed in seeds:
        rows = per_threshold(drawn(table, per_score=100, seed=seed), 3, {}, draws=1000, seed=seed)
        for row in rows:
            for name in ("precision", "recall"):
                low, high = row[f"{name}_interval"]
                value = wanted[row["threshold"]][name]
                found.setdefault((row["threshold"], name), []).append((row[name], low <= value <= high))
    covered = []
    for (threshold, name), results in found.items():
        values = np.array([value for value, _ in results])
        value, error = wanted[threshold][name], values.std() / np.sqrt(len(values))
        # A ratio of two estimates has a small bias; two points are far less than an interval's width.
        assert abs(values.mean() - value) < 3 * error + 0.02, (threshold, name, values.mean(), value)
        share = np.mean([inside for _, inside in results])
        covered.append(share)
        assert share >= 0.90, (threshold, name, share)
    assert np.mean(covered) >= 0.93
    # Without the strata's weights the same samples give a recall that is far from the truth.
    strata = drawn(table, per_score=100, seed=0)
    unweighted = strata.labels[3:, 3:].sum() / strata.labels[:, 3:].sum()
    assert abs(unweighted - wanted[3]["recall"]) > 0.2


def test_audit_stage_labels_sample_by_judge_and_counts_rejected(tmp_path: Path, ray_cluster: None) -> None:
    table = population(120)
    texts = [
        f"MUTE {n}" if n == 7 else f"A page. LABEL-{label}"
        for n, label in enumerate(table["label"].to_pylist())
    ]
    # A column `label` of the input is not the truth here: the judge's labels are.
    wrong = pa.array([5 - label for label in table["label"].to_pylist()], pa.int8())
    scored = pa.table({"id": table["id"], "text": texts, "score": table["score"], "label": wrong})
    dataset.write_table(scored, str(tmp_path / "in" / "a.parquet"))

    def judge(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        document = body["messages"][1]["content"].split("<<<DOCUMENT", 1)[1]
        assert "score" not in document
        if "MUTE" in document:
            return 200, completion("no")
        score = int(document.split("LABEL-")[1][0])
        return 200, completion(json.dumps({"score": score, "reason": "r"}))

    with Endpoint(judge) as endpoint:
        values = {
            "scored": str(tmp_path / "in"), "output": str(tmp_path / "out"), "per_score": 500,
            "judge": {"kind": "openai", "model": "m", "base_url": endpoint.url, "api_key_env": ""},
        }  # fmt: skip
        record = audit_scores(from_dict(AuditConfig, values))
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (120, 119, 1)
    assert record["labelled_by"] == "openai:m"
    (rejected,) = pads.dataset(tmp_path / "out" / "rejected", format="parquet").to_table().to_pylist()
    assert rejected["id"] == "d7"
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    kept = table.filter(pa.array([n != 7 for n in range(120)]))
    by_score = np.array(kept["score"]), np.array(kept["label"])
    for row in found["scores"]:
        expected = np.bincount(by_score[1][by_score[0] == row["score"]], minlength=6)
        assert row["labels"] == expected.tolist()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md", "audit.json", "audit.png", "config.json", "data", "record.json", "rejected",
    ]  # fmt: skip
