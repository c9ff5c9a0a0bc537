"""The head against sklearn, on binary labels and on texts in several chunks."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from safety_ray.classifier.training.head import fit_chunks, fit_head, worst_chunks


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


def test_fit_head_keeps_unsafe_levels_equal_for_binary_labels() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 6, 600)
    x = torch.tensor(rng.normal(size=(600, 8)) + 3 * np.eye(6, 8)[y]).float()
    low = torch.tensor(np.where(y > 0, 1, 0))
    high = torch.tensor(np.where(y > 0, 5, 0))
    probs = fit_head(x, low, high, unsafe_weight=1.0, l2=1e-3)(x).softmax(-1)
    assert (probs[:, 1:].sum(1) > 0.5).eq(low.bool()).float().mean() > 0.95
    assert torch.allclose(probs[:, 1:].std(1), torch.zeros(600), atol=1e-4)  # nothing told them apart


def test_fit_chunks_assigns_label_to_harmful_chunk_only() -> None:
    rng = np.random.default_rng(0)
    calm, harm = np.eye(2, 8)
    x, owner, label = [], [], []
    for text in range(300):
        bad = text % 2
        chunks = [calm, calm, harm] if bad else [calm, calm, calm]
        x += [chunk * 3 + rng.normal(size=8) * 0.3 for chunk in chunks]
        owner += [text] * 3
        label.append(4 * bad)
    y = torch.tensor(label)
    head = fit_chunks(
        torch.tensor(np.array(x)).float(), torch.tensor(owner), y, y, unsafe_weight=1.0, l2=1e-4
    )
    probs = head(torch.tensor(np.array([calm, harm]) * 3).float()).softmax(-1)
    assert probs[0, 0] > 0.95  # two of three chunks of the harmful texts are calm, and stay so
    assert probs[1, 4] > 0.95
    assert worst_chunks(torch.tensor([0.1, 0.9, 0.3, 0.2]), torch.tensor([7, 7, 9, 9])).tolist() == [1, 2]
