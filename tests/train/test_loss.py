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
    monkeypatch.setattr(loss, "_FEWEST", 1)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_loss_matches_eager(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 8), torch.randn(50, 8)
    targets = torch.randint(0, 50, (23,))
    targets[[0, 5, 22]] = loss.IGNORED
    found = []
    for compiled in (False, True):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight)]
        with torch.compiler.set_stance("force_eager"):  # compilation takes ten seconds
            total, losses = loss.summed_cross_entropy(*leaves, targets, compiled=compiled)
        found.append([losses, *torch.autograd.grad(total * 0.3, leaves)])
    for eager, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, eager)


@pytest.mark.parametrize(
    ("rows", "vocabulary", "device", "expected"),
    [
        (16_384, 49_216, "cuda", 2048),  # 2^27 / 49,216 are 2,727 rows
        (15_000, 49_216, "cuda", 2048),
        (5_000, 49_216, "cuda", 2048),
        (1_000, 49_216, "cuda", 1024),
        (16_384, 1_000_000, "cuda", 1024),  # never less than a tile
        (2_048, 8_192, "cpu", 512),
        (2_048, 49_216, "cpu", 512),
        (600, 8_192, "cpu", 300),
        (0, 8_192, "cpu", 1),
    ],
)
def test_chunk_rows_are_even_multiples_of_a_tile(
    rows: int, vocabulary: int, device: str, expected: int
) -> None:
    assert loss.chunk_rows(rows, vocabulary, device) == expected


def test_next_tokens_shifts_targets_and_masks_unlearned() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    learn = torch.tensor([[True, True, False, True]])
    assert next_tokens(ids, learn).tolist() == [[6, loss.IGNORED, 8, loss.IGNORED]]
