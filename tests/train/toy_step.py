"""A small model with the interface of LanguageModel, which needs neither transformers nor a tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from safety_ray.train.batches import Batch, document_positions
from safety_ray.train.loss import IGNORED
from safety_ray.train.settings import PretrainConfig

ROWS, LENGTH, VOCABULARY, TAG = 8, 6, 11, 3


class Toy(nn.Module):
    """Embeddings, two linear blocks and a head of its own.

    The gradient is multiplied by `factor`; the loss is not, but it is nan if `factor` is infinite.
    """

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(8, VOCABULARY)

    def forward(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor,
        positions_BT: Tensor,
        tag_id: int = -1,
        tag_weight: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        hidden_BTD = self.embedding(ids_BT)
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD)
        logits_NV = self.head(hidden_BTD).flatten(0, 1)
        losses_N = nn.functional.cross_entropy(
            logits_NV, targets_BT.flatten(), ignore_index=IGNORED, reduction="none"
        )
        total = losses_N.sum()
        total = total + (self.factor - 1) * (total - total.detach())
        losses_N = losses_N.detach() + 0 * total.detach()  # not finite if the total is not
        return total, losses_N.view_as(targets_BT).clone()  # FSDP2 warns of a view


def batch() -> Batch:
    """Return the rows of all workers: random ids, of which every fourth is not a target."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)
    targets = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)
    targets.view(-1)[::4] = IGNORED
    zeros = torch.zeros_like(ids)
    return Batch(ids, targets, zeros, document_positions(zeros))


def training(**more: object) -> PretrainConfig:
    return PretrainConfig(rows="rows", output="out", workers=1, batch_rows=ROWS, **more)  # type: ignore[arg-type]


def expected_gradients() -> tuple[dict[str, Tensor], float]:
    """Return the gradients of the mean loss and this loss, by plain PyTorch in one process."""
    model, whole = Toy(), batch()
    total, _ = model(whole.ids, whole.targets, whole.positions)
    loss = total / (whole.targets != IGNORED).sum()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, float(loss.detach())


def operators(function: Callable[[], object], prefix: str) -> dict[str, int]:
    """Return how often `function` calls each operator of PyTorch whose name starts with `prefix`."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    events = [event for event in profiler.key_averages() if event.key.startswith(prefix)]
    return {event.key.removeprefix(prefix).strip("_"): event.count for event in events}
