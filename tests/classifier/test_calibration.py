"""Temperature against a grid search, reliability and the range loss against direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from safety_ray.classifier.calibration import fit_temperature, range_loss, reliability
from safety_ray.classifier.training.measures import calibrate


def sampled(rows: int, sharper: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample labels from logits; return the logits times `sharper`, and the labels."""
    random = torch.Generator().manual_seed(0)
    honest = torch.randn(rows, 6, generator=random) * 1.5
    label = torch.multinomial(honest.softmax(-1), 1, generator=random)[:, 0]
    return honest * sharper, label


@pytest.mark.parametrize("sharper", [0.4, 1.0, 3.0])
def test_fit_temperature_matches_grid_search(sharper: float) -> None:
    logits, label = sampled(3000, sharper)
    high = torch.where(torch.arange(3000) % 3 == 0, 5, label)  # a third says "at least"
    found = fit_temperature(logits, label, high)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    levels = torch.arange(6)
    inside = (levels >= label[:, None]) & (levels <= high[:, None])
    losses = [float(-((logits / t).softmax(-1) * inside).sum(1).log().mean()) for t in grid]
    assert found == pytest.approx(float(grid[int(np.argmin(losses))]), rel=0.01)
    assert found == pytest.approx(sharper, rel=0.1)


def test_calibrate_reduces_ece_of_overconfident_logits() -> None:
    logits, label = sampled(2000, 3.0)
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
    assert found["predicted"] == [0.06, 0.975]
    assert found["true"] == [0.5, 1.0]
    assert found["ece"] == pytest.approx((2 * 0.44 + 2 * 0.025) / 4, abs=1e-4)


def test_range_loss_matches_cross_entropy_for_single_label() -> None:
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 1, 2, 3, 5])
    assert torch.allclose(
        range_loss(logits, label, label), torch.nn.functional.cross_entropy(logits, label, reduction="none")
    )
    probs = logits.softmax(-1)
    inside = range_loss(logits, torch.tensor([2] * 5), torch.tensor([4] * 5))
    assert torch.allclose(inside, -probs[:, 2:5].sum(1).log(), atol=1e-6)
