"""A step compared with plain PyTorch: gradients, clipping, and steps that the device does not apply."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toy_step import LENGTH, ROWS, TAG, Toy, batch, expected_gradients, operators, training

from safety_ray.train.loss import IGNORED
from safety_ray.train.optim import FusedAdamW, adamw
from safety_ray.train.parallel import shard
from safety_ray.train.step import backward, read, update


def sharded() -> tuple[Toy, FusedAdamW]:
    model = Toy()
    shard(model, model.blocks, device="cpu", precision="fp32")
    return model, adamw(model, training())


def state(model: Toy, optimizer: FusedAdamW) -> list[Tensor]:
    """Return copies of the weights, moments and step counters."""
    moments = [value for values in optimizer.state.values() for value in values.values()]
    return [getattr(t, "full_tensor", lambda t=t: t)().clone() for t in [*model.parameters(), *moments]]


def test_backward_and_update_match_plain_pytorch(alone: None) -> None:
    gradients, loss = expected_gradients()
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    model, optimizer = sharded()
    sums = backward(model, batch(), TAG, training(micro_batch_rows=3))  # the last micro-batch has two rows
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name])  # type: ignore[attr-defined]
    update(optimizer, sums, 1e-2, grad_clip=norm / 2)
    result = read(sums)
    assert (result.loss, result.grad_norm) == (pytest.approx(loss, rel=1e-6), pytest.approx(norm, rel=1e-6))
    assert (result.applied, result.preempted, result.tokens) == (True, False, 36)

    plain = Toy()
    for name, parameter in plain.named_parameters():
        parameter.grad = gradients[name] / 2
    reference = adamw(plain, training(lr=1e-2))
    reference.step()
    for name, parameter in model.named_parameters():
        expected = plain.get_parameter(name)
        torch.testing.assert_close(parameter.full_tensor(), expected, rtol=1e-5, atol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", ["spike", "loss", "gradient"])
def test_update_of_bad_step_changes_no_state(alone: None, bad: str) -> None:
    model, optimizer = sharded()
    first = backward(model, batch(), TAG, training())
    update(optimizer, first, 1e-2, grad_clip=1.0)
    before, loss = state(model, optimizer), read(first).loss
    model.factor = {"spike": 1.0, "loss": math.inf, "gradient": 1e30}[bad]
    sums = backward(model, batch(), TAG, training())
    update(optimizer, sums, 1e-2, grad_clip=1.0, limit=loss / 2 if bad == "spike" else math.inf)
    result = read(sums)
    assert not result.applied
    assert math.isfinite(result.loss) == (bad != "loss")
    assert math.isfinite(result.grad_norm) == (bad == "spike")
    for value, expected in zip(state(model, optimizer), before, strict=True):
        assert torch.equal(value, expected)
    model.factor = 1.0
    sums = backward(model, batch(), TAG, training())
    update(optimizer, sums, 1e-2, grad_clip=1.0)
    assert read(sums).applied
    assert not torch.equal(state(model, optimizer)[0], before[0])


def test_step_waits_for_device_only_in_read(alone: None) -> None:
    """A GPU must finish all its work before a number can be read from a tensor, which is this operator.

    The CPU's kernel of AdamW reads the step counter of each parameter; the one of GPUs does not.
    """
    reading = "aten::_local_scalar_dense"
    model, optimizer = sharded()
    results: list[Tensor] = []

    def step() -> None:
        results.append(backward(model, batch(), TAG, training(micro_batch_rows=2), preempted=True))
        update(optimizer, results[-1], 1e-2, grad_clip=1.0, limit=9.0)

    assert operators(step, reading) == {"": len(list(model.parameters()))}
    assert operators(lambda: float(results[-1][0]), reading) == {"": 1}
    assert read(results[-1]).preempted


def test_split_narrows_micro_batches_without_changing_gradients(alone: None) -> None:
    whole, widths = batch(), tuple(LENGTH - n % 3 for n in range(ROWS))
    for row, width in enumerate(widths):  # what is behind a row's width is padding
        whole.targets[row, width:] = IGNORED
    model = Toy()
    (model(whole.ids, whole.targets, whole.positions)[0] / (whole.targets != IGNORED).sum()).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    narrowed = replace(whole, widths=widths)
    assert [micro.ids.shape[1] for micro in narrowed.split(1)] == list(widths)
    assert [micro.ids.shape[1] for micro in narrowed.split(3)] == [LENGTH, LENGTH, LENGTH]
    model, _ = sharded()
    backward(model, narrowed, TAG, training(micro_batch_rows=1))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.full_tensor(), expected[name])  # type: ignore[union-attr]
