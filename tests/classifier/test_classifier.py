"""Predictions of the classifier for long texts, and folders that are not a classifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from safety_ray.classifier import encoder as encoder_module
from safety_ray.classifier.classifier import Classifier, combine
from safety_ray.classifier.encoder import Encoder, packaged_folder
from safety_ray.core import dataset
from safety_ray.core.errors import UserError


def test_classifier_combine_takes_worst_chunk() -> None:
    safe, unsafe, sure = (
        torch.eye(6)[0],
        torch.tensor([0, 0, 0, 0.4, 0.6, 0]),
        torch.tensor([0, 0, 0, 0, 0.9, 0.1]),
    )
    found = combine(torch.stack([safe, unsafe, sure]), [10, 20, 25])
    assert found.score == 4
    assert found.scored_chunks == [{"end": 10, "score": 0}, {"end": 20, "score": 4}, {"end": 25, "score": 4}]
    assert found.probs[4] == pytest.approx(0.9)


def test_classifier_scores_long_text_by_worst_chunk(classifier: Path, corpus: Path) -> None:
    clf = Classifier.load(classifier)
    rows = dataset.table(str(corpus)).to_pylist()
    worst = next(r["text"] for r in rows if r["label"] == 5 and clf.predict([r["text"]])[0].score == 5)
    calm = " ".join(r["text"] for r in rows if r["label"] == 0)[:4000]
    passage = "\n".join([worst] * 5)  # long enough to fill a chunk at any position
    [prediction] = clf.predict([f"{calm}\n{passage}\n{calm}"])
    scores = [chunk["score"] for chunk in prediction.scored_chunks]
    assert scores.count(0) > 3
    assert prediction.score == max(scores) >= 4


def test_fitted_classifier_separates_safe_from_unsafe(classifier: Path) -> None:
    metrics = json.loads((classifier / "metrics.json").read_text())
    assert metrics["n"] >= 50
    assert metrics["auroc_at_3"] > 0.9
    assert metrics["recall_at_1"] > 0.8


def test_classifier_and_encoder_reject_wrong_folder_or_weights(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match="has no classifier"):
        Classifier.load(tmp_path)
    with pytest.raises(UserError, match="'nowhere/at-all' cannot be loaded"):
        Encoder("nowhere/at-all")
    monkeypatch.setattr(encoder_module, "_PACKAGED_SHA256", "0" * 64)
    with pytest.raises(UserError, match="is not the official all-MiniLM-L6-v2"):
        packaged_folder.__wrapped__()


def test_classifier_is_saved_to_and_loaded_from_url(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fitted = Classifier.load(classifier)
    url = "memory://models/fit"
    fitted.save(f"{url}/classifier")
    for place in (url, f"{url}/classifier"):
        assert Classifier.load(place).predict(["a text"]) == fitted.predict(["a text"])
    with pytest.raises(UserError, match="'memory://models/none' does not exist"):
        Classifier.load("memory://models/none")
