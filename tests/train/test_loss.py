"""The chunked loss and its gradient match PyTorch's cross-entropy."""

from __future__ import annotations

import pytest
import torch

from safety_ray.train import loss
from safety_ray.train.batches import next_tokens


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_summed_cross_entropy_matches_pytorch(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(loss._LOGITS, "cpu", chunk * 50)
    hidden = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (23,))
    targets[[0, 5, 22]] = loss.IGNORED

    logits = hidden @ weight.T
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    grads = torch.autograd.grad(expected.sum() * 0.3, (hidden, weight))

    total, losses = loss.summed_cross_entropy(hidden, weight, targets)
    chunked_grads = torch.autograd.grad(total * 0.3, (hidden, weight))
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total.double(), expected.sum(), rtol=1e-5, atol=1e-5)
    for a, b in zip(chunked_grads, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_next_tokens_shifts_targets_and_masks_unlearned() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    learn = torch.tensor([[True, True, False, True]])
    assert next_tokens(ids, learn).tolist() == [[6, loss.IGNORED, 8, loss.IGNORED]]
