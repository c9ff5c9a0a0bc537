"""The stage score on a real Ray cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier.classifier import Classifier
from safety_ray.core import dataset

TEXTS = ["A quiet soup recipe.", "I will hurt you all.", "", "Zażółć gęślą jaźń 🙂", "short"]


def test_score_stage_adds_columns_and_keeps_others(tmp_path, ray_cluster, classifier: Path) -> None:
    rows = pa.table({"id": [f"d{i}" for i in range(40)], "text": TEXTS[:2] * 20, "colour": ["red"] * 40})
    dataset.write_table(rows, str(tmp_path / "in" / "a.parquet"))
    config = ScoreConfig(
        documents=str(tmp_path / "in"), classifier=str(classifier), output=str(tmp_path / "out"), actors=1
    )
    record = score_documents(config)
    assert (record["rows_in"], record["rows_out"], record["rejected"]) == (40, 40, 0)
    scored = {row["id"]: row for row in dataset.table(str(tmp_path / "out")).to_pylist()}
    expected = Classifier.load(classifier).predict(TEXTS[:2])
    for i in range(40):
        row, want = scored[f"d{i}"], expected[i % 2]
        assert row["colour"] == "red"
        assert row["score"] == want.score
        assert row["chunk_scores"] == want.chunk_scores
        assert np.allclose(row["probs"], want.probs, atol=0.02)
    assert score_documents(config) == record
