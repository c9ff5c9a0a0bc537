"""The classifier against sentence-transformers and sklearn, and the stage on a real Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from jobs.fit import FitConfig, fit_classifier
from jobs.score import ScoreConfig, score_documents
from safety_ray.classifier import encoder as encoder_module
from safety_ray.classifier.classifier import Classifier, combine
from safety_ray.classifier.encoder import Encoder, packaged_folder
from safety_ray.classifier.training.head import fit_head
from safety_ray.classifier.training.rows import complete, split
from safety_ray.classifier.transformer import batches_by_length
from safety_ray.core import dataset
from safety_ray.core.errors import UserError

TEXTS = ["A quiet soup recipe.", "I will hurt you all.", "", "Zażółć gęślą jaźń 🙂", "short"]


def test_encoder_embeddings_match_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    ours = Encoder(device="cpu")
    vectors = ours.embed([chunks[0] for chunks in ours.chunk_ids(TEXTS)])
    theirs = SentenceTransformer(str(packaged_folder()), device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert vectors.shape == (len(TEXTS), 7 * 384)  # the embedding layer and six blocks
    assert (vectors[:, -384:] * theirs).sum(-1).min() > 0.999
    assert torch.allclose(vectors.view(-1, 7, 384).norm(dim=-1), torch.ones(len(TEXTS), 7), atol=1e-4)


def test_encoder_chunks_contain_every_token_once() -> None:
    encoder = Encoder(device="cpu", max_tokens=16)
    text = " ".join(f"word{i}" for i in range(60))
    [chunks] = encoder.chunk_ids([text])
    body = [i for chunk in chunks for i in chunk[1:-1]]
    assert body == encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert max(map(len, chunks)) <= 16


def test_batches_by_length_cover_texts_within_token_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500).tolist()
    batches = batches_by_length(lengths, 1024)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 1024 for b in batches)
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches)
    assert sum(lengths) / padded > 0.95


def test_classifier_combine_takes_worst_chunk() -> None:
    safe, unsafe, sure = (
        torch.eye(6)[0],
        torch.tensor([0, 0, 0, 0.4, 0.6, 0]),
        torch.tensor([0, 0, 0, 0, 0.9, 0.1]),
    )
    found = combine(torch.stack([safe, unsafe, sure]))
    assert found.score == 4
    assert found.chunk_scores == [0, 4, 4]
    assert found.probs[4] == pytest.approx(0.9)


def test_classifier_scores_long_text_by_worst_chunk(classifier: Path, corpus: Path) -> None:
    clf = Classifier.load(classifier)
    rows = dataset.table(str(corpus)).to_pylist()
    worst = next(r["text"] for r in rows if r["label"] == 5 and clf.predict([r["text"]])[0].score == 5)
    calm = " ".join(r["text"] for r in rows if r["label"] == 0)[:4000]
    passage = "\n".join([worst] * 5)  # long enough to fill a chunk wherever the cuts fall
    [prediction] = clf.predict([f"{calm}\n{passage}\n{calm}"])
    assert prediction.chunk_scores.count(0) > 3
    assert prediction.score == max(prediction.chunk_scores) >= 4


def test_fit_head_matches_sklearn_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 6, 400)
    x = rng.normal(size=(400, 8)) + np.eye(6, 8)[y] * 2
    label = torch.tensor(y)
    head = fit_head(torch.tensor(x).float(), label, label, unsafe_weight=3.0, l2=1e-3)
    sample = np.where(y > 0, 3.0, 1.0)
    # sklearn minimises C * sum(w * loss) + |W|^2 / 2; ours is sum(w * loss) / sum(w) + l2 * |W|^2.
    reference = LogisticRegression(C=1 / (2 * 1e-3 * sample.sum()), max_iter=2000, tol=1e-8).fit(x, y, sample)
    ours = head(torch.tensor(x).float()).softmax(-1).numpy()
    assert np.abs(ours - reference.predict_proba(x)).max() < 5e-3


def test_fitted_classifier_separates_safe_from_unsafe(classifier: Path) -> None:
    metrics = json.loads((classifier / "metrics.json").read_text())
    assert metrics["n"] >= 50
    assert metrics["auroc_at_3"] > 0.9
    assert metrics["recall_at_1"] > 0.8


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


def test_fit_rejects_invalid_labels_and_splits(tmp_path) -> None:
    with pytest.raises(UserError, match="row 'a' has label 9"):
        complete([{"id": "a", "text": "t", "label": 9}], "x")
    with pytest.raises(UserError, match="row 'a' has label 3 and label_max 2"):
        complete([{"id": "a", "text": "t", "label": 3, "label_max": 2}], "x")
    with pytest.raises(UserError, match="1 texts to fit on and 0 to measure on"):
        split(complete([{"id": "a", "text": "t", "label": 1, "split": "train"}], "x"), 0, 0.2, 0)
    dataset.write_table(pa.table({"id": ["a"], "text": ["t"]}), str(tmp_path / "in" / "a.parquet"))
    with pytest.raises(UserError, match="no column 'label'"):
        fit_classifier(FitConfig(labelled=str(tmp_path / "in"), output=str(tmp_path / "out")))


def test_classifier_and_encoder_reject_wrong_folder_or_weights(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match="holds no classifier"):
        Classifier.load(tmp_path)
    with pytest.raises(UserError, match="'nowhere/at-all' cannot be loaded"):
        Encoder("nowhere/at-all")
    monkeypatch.setattr(encoder_module, "_PACKAGED_SHA256", "0" * 64)
    with pytest.raises(UserError, match="is not the official all-MiniLM-L6-v2"):
        packaged_folder.__wrapped__()
