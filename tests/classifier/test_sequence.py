"""Sequence classifiers of transformers, like the published one: loading, calibration, errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GteConfig,
    GteForSequenceClassification,
)  # fmt: skip

from jobs.fit import FitConfig, fit_classifier
from safety_ray.classifier import transformer
from safety_ray.classifier.classifier import Classifier
from safety_ray.classifier.encoder import Encoder, packaged_folder
from safety_ray.core import dataset
from safety_ray.core.errors import UserError

TEXTS = ["A quiet soup recipe.", "I will hurt you all. " * 40, "", "Zażółć gęślą jaźń 🙂"]
SIZES: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.5,
}  # fmt: skip


def checkpoint(folder: Path, labels: int = 6, limit: int = 64) -> Path:
    """Save a small random sequence classifier of the published one's family, with a BERT tokenizer."""
    torch.manual_seed(0)
    config = GteConfig(**{**SIZES, "max_position_embeddings": limit}, num_labels=labels)
    GteForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(packaged_folder()).save_pretrained(folder)
    return folder


def by_transformers(folder: Path, text: str) -> torch.Tensor:
    """Return (6,) probabilities of transformers' own tokenizer and model, in fp32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt", truncation=False, padding=False)).logits.softmax(
            -1
        )[0]


def test_sequence_classifier_probabilities_match_transformers(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(transformer, "fast_bf16", lambda device: False)
    folder = checkpoint(tmp_path / "published")
    found = Classifier.load(folder, "cpu").predict(TEXTS)
    for text, prediction in zip(TEXTS, found, strict=True):
        if text != TEXTS[1]:
            assert torch.allclose(torch.tensor(prediction.probs), by_transformers(folder, text), atol=1e-5)
    assert len(found[1].scored_chunks) > 3  # cut at the 64 tokens that the model takes
    assert found[1].score == max(chunk["score"] for chunk in found[1].scored_chunks)


def test_sequence_classifier_is_calibrated_by_fit_and_reloads(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "published")
    rows = [{"id": f"{i}", "text": f"{TEXTS[i % 2][:30]} {i}", "label": i % 6} for i in range(60)]
    dataset.write_table(pa.Table.from_pylist(rows), str(tmp_path / "in" / "rows.parquet"))
    config = FitConfig(
        labelled=str(tmp_path / "in"), classifier=str(folder), max_tokens=0, output=str(tmp_path / "out")
    )
    record = fit_classifier(config)
    temperature = record["metrics"]["calibration"]["temperature"]
    assert (record["fitted_on"], record["measured_on"]) == (0, record["metrics"]["n"])
    calibrated = Classifier.load(tmp_path / "out", "cpu")
    assert calibrated.temperature == temperature != 1.0
    [raw], [scaled] = (c.predict([TEXTS[0]]) for c in (Classifier.load(folder, "cpu"), calibrated))
    assert raw.score == scaled.score
    expected = (torch.tensor(raw.probs).clamp_min(1e-6).log() / temperature).softmax(-1)
    assert torch.allclose(torch.tensor(scaled.probs), expected, atol=1e-3)


def test_sequence_classifier_requires_trust_remote_code(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(**SIZES, num_labels=6)).save_pretrained(plain)
    AutoTokenizer.from_pretrained(packaged_folder()).save_pretrained(plain)
    own = tmp_path / "own"
    shutil.copytree(plain, own)
    (own / "configuration.py").write_text(
        "from transformers import BertConfig\n\n\nclass OwnConfig(BertConfig):\n    model_type = 'own'\n"
    )
    (own / "modeling.py").write_text(
        "from pathlib import Path\n\nfrom transformers import BertForSequenceClassification\n\n"
        f"from .configuration import OwnConfig\n\nPath({str(tmp_path / 'ran')!r}).touch()\n\n\n"
        "class OwnForSequenceClassification(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    auto = (
        '"auto_map": {"AutoConfig": "configuration.OwnConfig", '
        '"AutoModelForSequenceClassification": "modeling.OwnForSequenceClassification"}, "model_type": "own"'
    )
    settings = (plain / "config.json").read_text()
    assert '"model_type": "bert"' in settings
    (own / "config.json").write_text(settings.replace('"model_type": "bert"', auto))
    with pytest.raises(UserError, match=r"has code of its own.*trust_remote_code=true"):
        Classifier.load(own, "cpu")
    rows = [{"id": f"{i}", "text": f"{TEXTS[0]} {i}", "label": i % 6} for i in range(30)]
    dataset.write_table(pa.Table.from_pylist(rows), str(tmp_path / "in" / "rows.parquet"))
    fit_classifier(
        FitConfig(
            labelled=str(tmp_path / "in"),
            classifier=str(own),
            trust_remote_code=True,
            max_tokens=0,
            output=str(tmp_path / "out"),
        )
    )
    (tmp_path / "ran").unlink()
    with pytest.raises(UserError, match=r"runs code that comes with its encoder.*trust_remote_code=true"):
        Classifier.load(tmp_path / "out", "cpu")  # the folder may be from anyone
    assert not (tmp_path / "ran").exists()
    trusted = Classifier.load(tmp_path / "out", "cpu", trust_remote_code=True)
    assert type(trusted.encoder.model).__name__ == "OwnForSequenceClassification"
    [found], [same] = trusted.predict([TEXTS[0]]), Classifier.load(plain, "cpu").predict([TEXTS[0]])
    assert found.score == same.score


def test_sequence_classifier_rejects_incompatible_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 labels; a harm classifier has 6"):
        Classifier.load(checkpoint(tmp_path / "two", labels=2), "cpu")
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"is a model \(BertModel\), but not a sequence classifier"):
        Classifier.load(tmp_path / "bare", "cpu")
    settings = BertConfig(**SIZES, num_labels=6, architectures=["BertForSequenceClassification"])
    settings.save_pretrained(tmp_path / "bare")  # weights of an encoder, said to be a classifier's
    AutoTokenizer.from_pretrained(packaged_folder()).save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"lacks 2 of the model's weights, classifier.bias among them"):
        Classifier.load(tmp_path / "bare", "cpu")
    with pytest.raises(UserError, match="'nowhere/at-all' cannot be loaded"):
        Classifier.load("nowhere/at-all", "cpu")
    with pytest.raises(UserError, match=r"max_tokens=512 does not fit .*, which takes 8 to 64 tokens"):
        Encoder(str(tmp_path / "bare"), 512, "cpu")


def test_sequence_classifier_limits_long_model_to_2048_tokens(tmp_path: Path) -> None:
    assert Classifier.load(checkpoint(tmp_path / "long", limit=8192), "cpu").encoder.max_tokens == 2048
