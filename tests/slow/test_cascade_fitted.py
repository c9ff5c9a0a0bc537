"""A cascade fitted to a real classifier: its audit, and a scoring run that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safety_ray import dataset
from safety_ray.errors import UserError
from safety_ray.score import cascade_fit
from safety_ray.score.cascade import FirstLook
from safety_ray.score.cascade_fit import CascadeConfig
from safety_ray.score.classifier import Classifier
from safety_ray.score.stage import ScoreConfig, run

pytestmark = pytest.mark.covers("safety_ray.score.cascade", "safety_ray.score.cascade_fit")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, corpus: Path, classifier: Path) -> Path:
    """A cascade fitted on the shipped corpus; its families are the sources."""
    folder = tmp_path_factory.mktemp("cascade") / "out"
    cascade_fit.run(
        CascadeConfig(
            documents=str(corpus), classifier=str(classifier), output=str(folder), source="family",
            recall=0.9, unsafe_from=3,
        )
    )  # fmt: skip
    return folder


def test_cascade_audit_uses_heldout_sources_and_reports_missed(
    fitted: Path, corpus: Path, classifier: Path
) -> None:
    audit = json.loads((fitted / "audit.json").read_text())
    rows = pq.read_table(fitted / "data" / "audit.parquet").to_pylist()
    by_part = {part: [r for r in rows if r["part"] == part] for part in ("calibrate", "heldout")}
    assert not {r["source"] for r in by_part["heldout"]} & {r["source"] for r in by_part["calibrate"]}
    told = dict(
        zip(
            (r["id"] for r in rows),
            Classifier.load(classifier).predict([r["text"] for r in rows]),
            strict=True,
        )
    )
    agree = [told[r["id"]].score == r["score"] for r in rows]
    assert np.mean(agree) > 0.98, "the truth of the audit is the classifier's score"
    for part, name in (("calibrate", "calibrated_on"), ("heldout", "heldout")):
        unsafe = [r for r in by_part[part] if r["score"] >= 3]
        assert audit[name]["unsafe"] == len(unsafe)
        assert audit[name]["missed"] == sum(r["risk"] < audit["threshold"] for r in unsafe)
    assert audit["calibrated_on"]["recall"] >= 0.9
    assert audit["documents_per_cpu_s"]["with"] > 0


def test_cascade_settled_texts_skip_classifier(
    tmp_path: Path, ray_cluster: None, fitted: Path, classifier: Path, corpus: Path
) -> None:
    rows = dataset.table(str(corpus), ["id", "text"]).slice(0, 120)
    # A stale column from an earlier run is replaced.
    rows = rows.append_column("settled_by", pa.array(["someone"] * len(rows)))
    dataset.write_table(rows, str(tmp_path / "in" / "a.parquet"))
    config = ScoreConfig(
        documents=str(tmp_path / "in"), output=str(tmp_path / "out"), classifier=str(classifier),
        cascade=str(fitted), actors=1, batch_rows=32,
    )  # fmt: skip
    record = run(config)
    found = dataset.table(str(tmp_path / "out")).to_pylist()
    expected = FirstLook.load(fitted).settle([r["text"] for r in found])
    assert 0 < sum(probs is not None for probs in expected) < len(found)
    encoder = Classifier.load(classifier)
    read = [r["text"] for r in found if r["settled_by"] == "classifier"]
    own = dict(zip(read, encoder.predict(read), strict=True))
    for row, probs in zip(found, expected, strict=True):
        if probs is None:
            assert row["settled_by"] == "classifier"
            assert row["chunk_scores"] == own[row["text"]].chunk_scores
        else:
            assert (row["settled_by"], row["score"], row["chunk_scores"]) == ("cascade", 0, None)
            assert row["probs"] == pytest.approx(probs, abs=1e-5)
    assert record["settled"] == {"cascade": len(found) - len(read), "classifier": len(read)}
    # Only the texts that the encoder read were computed.
    tokens = sum(len(c) for chunks in encoder.encoder.chunk_ids(sorted(set(read))) for c in chunks)
    assert record["tokens"]["read"] == tokens
    assert record["tokens"]["padding"] == pytest.approx(1 - tokens / record["tokens"]["computed"], abs=1e-4)


def test_cascade_rejects_invalid_settings_and_inputs(
    tmp_path: Path, fitted: Path, corpus: Path, classifier: Path
) -> None:
    paths = {"documents": str(corpus), "output": str(tmp_path / "out")}
    with pytest.raises(UserError, match="holds no cascade"):
        run(ScoreConfig(**paths, classifier=str(classifier), cascade=str(corpus)))
    other = tmp_path / "other"
    Classifier.load(classifier).save(other / "classifier")
    with pytest.raises(UserError, match="was not fitted to the classifier"):
        run(ScoreConfig(**paths, classifier=str(other), cascade=str(fitted)))
    with pytest.raises(UserError, match="has no column 'site'"):
        cascade_fit.run(CascadeConfig(**paths, classifier=str(classifier), source="site"))
    values = {**paths, "output": str(tmp_path / "b"), "source": "family", "heldout": ["nowhere"]}
    nowhere = CascadeConfig(**values, classifier=str(classifier))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no document has family 'nowhere'"):
        cascade_fit.run(nowhere)
