"""All parameters of a tiny encoder: its loss falls, and its gradient is the one worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from jobs.fit import FitConfig, fit_classifier
from safety_ray.classifier.classifier import Classifier, Head
from safety_ray.classifier.encoder import Encoder, packaged_folder
from safety_ray.classifier.training.parameters import Parameters, batch_loss, train
from safety_ray.core import dataset

CALM = "We planted tomatoes and shared the soup with our neighbours in the garden today."
HARSH = "I will hurt every one of you, said the threat, and nobody will be safe from me."  # codespell:ignore


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow BERT with random weights and no dropout, and the packaged tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(packaged_folder()).save_pretrained(folder)
    return folder


def a_head(width: int) -> Head:
    random = torch.Generator().manual_seed(1)
    return Head(torch.randn(6, width, generator=random), torch.randn(6, generator=random))


def test_fit_parameters_gradient_matches_hand_computation(tiny: Path) -> None:
    encoder = Encoder(str(tiny), 16, "cpu", exact=True)
    head = a_head(encoder.width)
    texts = encoder.chunk_ids([f"{CALM} {HARSH} {CALM}", HARSH, CALM])
    assert len(texts[0]) > 2
    low, high = torch.tensor([3, 4, 0]), torch.tensor([5, 4, 0])
    batch_loss(encoder, head, texts, low, high, 7.0).backward()
    found = encoder.model.embeddings.word_embeddings.weight.grad.clone()

    # The same by hand: transformers' own model, one chunk at a time, no padding, no batches.
    model = AutoModel.from_pretrained(tiny).eval()
    total = torch.tensor(0.0)
    for chunks, one_low, one_high in zip(texts, low.tolist(), high.tolist(), strict=True):
        probs = []
        for chunk in chunks:
            states = model(torch.tensor([chunk]), output_hidden_states=True).hidden_states
            means = [state[0].mean(0) for state in states]
            vector = torch.cat([mean / mean.norm() for mean in means])
            probs.append((head.weight @ vector + head.bias).softmax(-1))
        best = max(int(p.argmax()) for p in probs)
        decides = max((p for p in probs if int(p.argmax()) == best), key=lambda p: float(p[best].detach()))
        total = total + (7.0 if one_low else 1.0) * -decides[one_low : one_high + 1].sum().log()
    (total / 15.0).backward()
    expected = model.embeddings.word_embeddings.weight.grad
    assert expected.abs().max() > 1e-3
    assert torch.allclose(found, expected, atol=1e-5)


def test_fit_parameters_lowers_loss_and_is_deterministic(tiny: Path) -> None:
    config = Parameters(epochs=6, batch=4, lr=3e-3)
    low = torch.tensor([0, 4] * 8)
    runs = []
    for _ in range(2):
        encoder = Encoder(str(tiny), 16, "cpu", exact=True)
        texts = encoder.chunk_ids([f"{CALM} {i}" if i % 2 == 0 else f"{HARSH} {i}" for i in range(16)])
        before = encoder.model.embeddings.word_embeddings.weight.detach().clone()
        head, losses = train(
            encoder, a_head(encoder.width), texts, low, low, config, unsafe_weight=1.0, seed=0
        )
        assert not torch.equal(before, encoder.model.embeddings.word_embeddings.weight)
        assert not encoder.model.training
        runs.append((head.weight, losses))
    assert losses[-1] < 0.5 * losses[0]
    assert runs[0][1] == runs[1][1]
    assert torch.equal(runs[0][0], runs[1][0])


def test_fit_parameters_saves_trained_encoder_in_output_folder(tiny: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{i}",
            "text": f"{HARSH if i % 2 else CALM} {i}",
            "label": 4 * (i % 2),
            "source": "ab"[i % 3 > 0],
        }
        for i in range(40)
    ]
    dataset.write_table(pa.Table.from_pylist(rows), str(tmp_path / "in" / "rows.parquet"))
    config = FitConfig(
        labelled=str(tmp_path / "in"), output=str(tmp_path / "out"), encoder=str(tiny), max_tokens=16,
        pooling="mean+max", parameters=Parameters(epochs=2, lr=1e-3), leave_one_out=True,
    )  # fmt: skip
    metrics = fit_classifier(config)["metrics"]
    assert len(metrics["losses"]) == 2
    assert set(metrics["leave_one_out"]) == {"a", "b", "mean_auroc"}
    moved = tmp_path / "moved"
    (tmp_path / "out").rename(moved)
    found = Classifier.load(moved, "cpu")
    base, own = Encoder(str(tiny), 16, "cpu").model, found.encoder.model
    difference = base.embeddings.word_embeddings.weight - own.embeddings.word_embeddings.weight
    assert difference.abs().max() > 1e-4
    saved = {row["id"]: row for row in dataset.table(str(moved)).to_pylist()}
    texts = {row["id"]: row["text"] for row in rows}
    for name, prediction in zip(saved, found.predict([texts[i] for i in saved]), strict=True):
        assert prediction.score == saved[name]["score"]
        assert prediction.probs == pytest.approx(saved[name]["probs"], abs=0.02)
