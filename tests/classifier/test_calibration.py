"""The temperature against a grid search, reliability against counts, and what deciding chunks are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safety_ray.classifier.calibration import fit_temperature, reliability
from safety_ray.classifier.classifier import combine, deciding
from safety_ray.classifier.training.head import fit_chunks, worst_chunks
from safety_ray.classifier.training.measures import calibrate
from safety_ray.classifier.training.table import deciding_chunks


def drawn(rows: int, sharper: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `sharper` times too sure of the labels that were drawn from them."""
    random = torch.Generator().manual_seed(0)
    honest = torch.randn(rows, 6, generator=random) * 1.5
    label = torch.multinomial(honest.softmax(-1), 1, generator=random)[:, 0]
    return honest * sharper, label


@pytest.mark.parametrize("sharper", [0.4, 1.0, 3.0])
def test_fit_temperature_matches_grid_search(sharper: float) -> None:
    logits, label = drawn(3000, sharper)
    high = torch.where(torch.arange(3000) % 3 == 0, 5, label)  # a third says "at least"
    found = fit_temperature(logits, label, high)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    levels = torch.arange(6)
    inside = (levels >= label[:, None]) & (levels <= high[:, None])
    losses = [float(-((logits / t).softmax(-1) * inside).sum(1).log().mean()) for t in grid]
    assert found == pytest.approx(float(grid[int(np.argmin(losses))]), rel=0.01)
    assert found == pytest.approx(sharper, rel=0.1)


def test_calibrate_reduces_ece_of_overconfident_logits() -> None:
    logits, label = drawn(2000, 3.0)
    rows = [{"label": int(y), "label_max": int(y), "family": str(i)} for i, y in enumerate(label)]
    temperature, found = calibrate(logits, rows, 0)
    assert temperature == pytest.approx(3.0, rel=0.1)
    for t in ("1", "3"):
        assert found["after"][t]["ece"] < 0.5 * found["before"][t]["ece"]
    halves = calibrate(logits[:1], rows[:1], 0)[1]  # one row: nothing to measure it on but itself
    assert halves["after"]["1"]["rows"] == [1]


def test_reliability_matches_hand_computed_bins() -> None:
    found = reliability(np.array([0.05, 0.07, 0.95, 1.0]), np.array([False, True, True, True]))
    assert found["rows"] == [2, 2]
    assert found["said"] == [0.06, 0.975]
    assert found["true"] == [0.5, 1.0]
    assert found["ece"] == pytest.approx((2 * 0.44 + 2 * 0.025) / 4, abs=1e-4)


def test_deciding_chunks_match_per_text_computation() -> None:
    logits = torch.randn(400, 6, generator=torch.Generator().manual_seed(1)) * 2
    owner = torch.sort(torch.randint(0, 90, (400,), generator=torch.Generator().manual_seed(2)))[0]
    found = deciding_chunks(logits, owner).tolist()
    for text, chunk in zip(owner.unique().tolist(), found, strict=True):
        at = (owner == text).nonzero().flatten()
        probs = logits[at].softmax(-1)
        assert chunk == int(at[deciding(probs)])
        assert combine(probs).score == int(logits[chunk].argmax())


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
