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


@pytest.mark.parametrize("weight", [1.0, 5.0])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_tag_weight_multiplies_binary_loss_of_tag(
    weight: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(loss._LOGITS, "cpu", chunk * 50)
    monkeypatch.setattr(loss, "_FEWEST", 1)
    leaves = [torch.randn(n, 8, dtype=torch.float64, requires_grad=True) for n in (23, 50)]
    targets, tag = torch.randint(0, 50, (23,)), 3
    targets[[0, 5, 22]], targets[[1, 9]] = loss.IGNORED, tag

    logits, learned = leaves[0] @ leaves[1].T, targets != loss.IGNORED
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    is_tag = (targets == tag).double()[learned]
    of_tag = torch.nn.functional.binary_cross_entropy(
        logits.softmax(1)[learned, tag], is_tag, reduction="sum"
    )
    expected = losses.sum() + (weight - 1) * of_tag
    total, found = loss.summed_cross_entropy(*leaves, targets, tag_id=tag, tag_weight=weight)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), losses, rtol=1e-5, atol=1e-6)  # reported without the weight
    for a, b in zip(torch.autograd.grad(total, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("logit", [-90.0, 90.0])
def test_tag_weight_has_finite_gradient_at_certainty(logit: float) -> None:
    hidden = torch.tensor([[logit, 1.0], [logit, 1.0]], requires_grad=True)
    head = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]])  # P(tag) is 0 or 1
    total, _ = loss.summed_cross_entropy(hidden, head, torch.tensor([0, 1]), tag_id=0, tag_weight=9.0)
    total.backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert hidden.grad.abs().max() <= 18


@pytest.mark.parametrize("tag_weight", [1.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_loss_matches_eager(dtype: torch.dtype, tag_weight: float) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 8), torch.randn(50, 8)
    targets = torch.randint(0, 50, (23,))
    targets[[0, 5, 22]], targets[9] = loss.IGNORED, 3
    found = []
    for compiled in (False, True):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight)]
        with torch.compiler.set_stance("force_eager"):  # compilation takes ten seconds
            total, losses = loss.summed_cross_entropy(
                *leaves, targets, tag_id=3, tag_weight=tag_weight, compiled=compiled
            )
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
