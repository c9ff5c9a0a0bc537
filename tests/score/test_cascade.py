"""The cascade: what it learns, what its threshold promises, and what it leaves to the classifier."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from safety_ray import dataset
from safety_ray.errors import UserError
from safety_ray.score import cascade_fit
from safety_ray.score.cascade import FirstLook, cut
from safety_ray.score.cascade_fit import CascadeConfig, measure, threshold
from safety_ray.score.classifier import Classifier
from safety_ray.score.stage import ScoreConfig, run

SAFE, HARSH = "a quiet walk by the river", "i will hurt you all"
LEARNT = {"features": 1 << 12, "strength": 10.0, "piece": 200, "unsafe_from": 1}


def look(classes: int = 2) -> FirstLook:
    texts = [f"{SAFE} {n}" for n in range(30)] + [f"{HARSH} {n}" for n in range(30)]
    scores = [0] * 30 + ([4] * 30 if classes == 2 else [4] * 15 + [5] * 15)
    return FirstLook.fit(texts, scores, **LEARNT)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_sklearns(classes: int) -> None:
    texts = [f"{SAFE} {n}" for n in range(30)] + [f"{HARSH} {n}" for n in range(30)]
    scores = [0] * 30 + ([4] * 30 if classes == 2 else [4] * 15 + [5] * 15)
    found = look(classes)
    model = LogisticRegression(C=10.0, max_iter=200).fit(found._vectorizer.transform(texts), scores)
    asked = [SAFE, HARSH, f"{SAFE} {HARSH}", "neither of them"]
    expected = model.predict_proba(found._vectorizer.transform(asked))
    assert np.allclose(found.probabilities(asked)[:, model.classes_], expected, atol=1e-4)
    assert np.allclose(found.probabilities(asked).sum(1), 1.0, atol=1e-5)


def test_a_harmful_piece_of_a_long_text_counts(tmp_path: Path) -> None:
    found = look()
    calm = f"{SAFE} " * 100
    assert "".join(cut(calm, 200)) == calm
    risks = found.risk(found.probabilities([calm, calm + f"{HARSH} " * 10 + calm, HARSH, ""]))
    assert risks[0] < 0.1
    assert risks[1] > 0.5
    found.threshold = 0.3
    found.save(tmp_path / "first_look")
    again = FirstLook.load(tmp_path)
    settled = again.settle([SAFE, HARSH])
    assert settled[1] is None
    assert settled[0] == pytest.approx(found.probabilities([SAFE])[0].tolist(), abs=1e-5)


def test_the_threshold_keeps_its_promise() -> None:
    """Of 2,000 draws, on average no more than 1 - recall of new unsafe texts fall below it."""
    rng = np.random.default_rng(0)
    missed = [
        (rng.beta(2, 1, 500) < threshold(rng.beta(2, 1, 399).astype(np.float32), 0.99)).mean()
        for _ in range(2000)
    ]
    assert np.mean(missed) == pytest.approx(4 / 400, abs=1e-3)
    with pytest.raises(UserError, match=r"150 of the calibration texts unsafe, and recall=0.995 needs 199"):
        threshold(np.ones(150, np.float32), 0.995)


def test_the_interval_is_clopper_pearsons() -> None:
    scores, settled = (
        np.array([0] * 50 + [3] * 40),
        np.array([True] * 45 + [False] * 5 + [True] * 2 + [False] * 38),
    )
    found = measure(pa.table({"score": pa.array(scores, pa.int8()), "settled": settled}), 1)
    assert (found["unsafe"], found["missed"], found["recall"]) == (40, 2, 0.95)
    assert found["missed_scores"] == [0, 0, 0, 2, 0, 0]
    low, high = beta.ppf(0.025, 38, 3), beta.ppf(0.975, 39, 2)
    assert found["recall_interval"] == pytest.approx([low, high], abs=1e-4)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, corpus: Path, classifier: Path) -> Path:
    """A cascade of the shipped corpus; its families are the sources."""
    folder = tmp_path_factory.mktemp("cascade") / "out"
    cascade_fit.run(
        CascadeConfig(
            documents=str(corpus), classifier=str(classifier), output=str(folder), source="family",
            recall=0.9, unsafe_from=3,
        )
    )  # fmt: skip
    return folder


def test_the_audit_is_of_other_sources_and_says_what_was_missed(
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


def test_what_is_settled_never_reaches_the_classifier(
    tmp_path: Path, ray_cluster: None, fitted: Path, classifier: Path, corpus: Path
) -> None:
    rows = dataset.table(str(corpus), ["id", "text"]).slice(0, 120)
    # A stale column of an earlier run gives way.
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
    # Only what the encoder has read was computed.
    tokens = sum(len(c) for chunks in encoder.encoder.chunk_ids(sorted(set(read))) for c in chunks)
    assert record["tokens"]["read"] == tokens
    assert record["tokens"]["padding"] == pytest.approx(1 - tokens / record["tokens"]["computed"], abs=1e-4)


def test_what_does_not_fit_is_named(tmp_path: Path, fitted: Path, corpus: Path, classifier: Path) -> None:
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
    with pytest.raises(UserError, match="all 2 pieces of the texts to fit on the score 0"):
        FirstLook.fit([SAFE, HARSH], [0, 0], **LEARNT)  # type: ignore[arg-type]
