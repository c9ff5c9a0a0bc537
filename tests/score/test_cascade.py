"""The cascade: what it learns, what its threshold promises, and what it leaves to the classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from safety_ray.errors import UserError
from safety_ray.score.cascade import FirstLook, cut
from safety_ray.score.cascade_fit import measure, threshold

SAFE, HARSH = "a quiet walk by the river", "i will hurt you all"
LEARNT = {"features": 1 << 12, "strength": 10.0, "piece": 200, "unsafe_from": 1}


def look(classes: int = 2) -> FirstLook:
    texts = [f"{SAFE} {n}" for n in range(30)] + [f"{HARSH} {n}" for n in range(30)]
    scores = [0] * 30 + ([4] * 30 if classes == 2 else [4] * 15 + [5] * 15)
    return FirstLook.fit(texts, scores, **LEARNT)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 3])
def test_cascade_probabilities_match_sklearn(classes: int) -> None:
    texts = [f"{SAFE} {n}" for n in range(30)] + [f"{HARSH} {n}" for n in range(30)]
    scores = [0] * 30 + ([4] * 30 if classes == 2 else [4] * 15 + [5] * 15)
    found = look(classes)
    model = LogisticRegression(C=10.0, max_iter=200).fit(found._vectorizer.transform(texts), scores)
    asked = [SAFE, HARSH, f"{SAFE} {HARSH}", "neither of them"]
    expected = model.predict_proba(found._vectorizer.transform(asked))
    assert np.allclose(found.probabilities(asked)[:, model.classes_], expected, atol=1e-4)
    assert np.allclose(found.probabilities(asked).sum(1), 1.0, atol=1e-5)


def test_cascade_risk_detects_harmful_piece_of_long_text(tmp_path: Path) -> None:
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


def test_cascade_threshold_bounds_expected_miss_rate() -> None:
    """Of 2,000 draws, on average no more than 1 - recall of new unsafe texts fall below it."""
    rng = np.random.default_rng(0)
    missed = [
        (rng.beta(2, 1, 500) < threshold(rng.beta(2, 1, 399).astype(np.float32), 0.99)).mean()
        for _ in range(2000)
    ]
    assert np.mean(missed) == pytest.approx(4 / 400, abs=1e-3)
    with pytest.raises(UserError, match=r"150 of the calibration texts unsafe, and recall=0.995 needs 199"):
        threshold(np.ones(150, np.float32), 0.995)


def test_cascade_recall_interval_matches_clopper_pearson() -> None:
    scores, settled = (
        np.array([0] * 50 + [3] * 40),
        np.array([True] * 45 + [False] * 5 + [True] * 2 + [False] * 38),
    )
    found = measure(pa.table({"score": pa.array(scores, pa.int8()), "settled": settled}), 1)
    assert (found["unsafe"], found["missed"], found["recall"]) == (40, 2, 0.95)
    assert found["missed_scores"] == [0, 0, 0, 2, 0, 0]
    low, high = beta.ppf(0.025, 38, 3), beta.ppf(0.975, 39, 2)
    assert found["recall_interval"] == pytest.approx([low, high], abs=1e-4)


def test_cascade_fit_rejects_texts_of_one_score() -> None:
    with pytest.raises(UserError, match="all 2 pieces of the texts to fit on the score 0"):
        FirstLook.fit([SAFE, HARSH], [0, 0], **LEARNT)  # type: ignore[arg-type]
