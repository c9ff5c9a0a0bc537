"""The batches of a worker: tensors on its device, read ahead of training."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from safety_ray.core.terms import SOURCES
from safety_ray.train.loss import IGNORED
from safety_ray.train.settings import TrainingConfig

if TYPE_CHECKING:
    from safety_ray.train.data import TokenRows

_AHEAD = 8  # steps read in advance: reading a row group from an object store takes longer than a step


@dataclass(frozen=True, slots=True)
class Batch:
    """A worker's rows of a step, each tensor of shape [B, T]."""

    ids: Tensor
    targets: Tensor  # the next token, or IGNORED
    sources: Tensor  # of each target: index in SOURCES
    positions: Tensor  # in the document, or in the row
    widths: tuple[int, ...] = field(
        default=(), kw_only=True
    )  # of each row: T without the padding at its end; (): T

    def split(self, rows: int) -> Iterator[Batch]:
        """Yield micro-batches of `rows` rows, each as wide as its widest row."""
        for start in range(0, len(self.ids), rows):
            widths = self.widths[start : start + rows]
            width = max(widths, default=self.ids.shape[1])
            yield Batch(*(tensor[start : start + rows, :width] for tensor in self._tensors()), widths=widths)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        return Batch(
            *(tensor.to(device, non_blocking=True) for tensor in self._tensors()), widths=self.widths
        )

    def pinned(self) -> Batch:
        """Return the batch in pinned memory, from which a copy to a GPU does not wait for earlier kernels."""
        return Batch(*(tensor.pin_memory() for tensor in self._tensors()), widths=self.widths)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.ids, self.targets, self.sources, self.positions


class Batches:
    """Iterates over (step, batch) of this worker.

    `waited` is the time in seconds that training has waited for batches.

    Args:
        data: the token rows.
        config: settings of the run.
        first: first step, 0-based.
        steps: end of the steps, exclusive.
        device: device of the batches.
        by_document: positions restart with each document of a row.
    """

    def __init__(
        self,
        data: TokenRows,
        config: TrainingConfig,
        first: int,
        steps: int,
        device: torch.device,
        *,
        by_document: bool,
    ) -> None:
        self.data, self.config, self.device, self.by_document = data, config, device, by_document
        self.first, self.steps = first, steps
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        with ThreadPoolExecutor(1) as pool:  # one thread, because reads share a cache and are in order
            ahead = deque(pool.submit(self._read, step) for step in range(self.first, self.steps)[:_AHEAD])
            for step in range(self.first, self.steps):
                start = time.monotonic()
                batch = ahead.popleft().result()
                self.waited += time.monotonic() - start
                if step + _AHEAD < self.steps:
                    ahead.append(pool.submit(self._read, step + _AHEAD))
                yield step, batch.to(self.device)

    def _read(self, step: int) -> Batch:
        rank, world = dist.get_rank(), dist.get_world_size()
        rows = self.data.batch(step, self.config.batch_rows, seed=self.config.seed, rank=rank, world=world)
        missing = self.config.rows_per_worker(world) - len(rows.ids)
        ids, learn, documents, sources = (_padded(torch.from_numpy(values), missing) for values in rows)
        targets, sources = next_tokens(ids, learn), _shifted(sources.long(), len(SOURCES) - 1)
        if not self.config.read_tags:
            ids, targets, sources, documents = without_tags(
                self.data.tag_id, ids, targets, sources, documents
            )
        widths_B = _widths(targets)
        order_B = widths_B.argsort(descending=True, stable=True)  # similar rows share a micro-batch
        ids, targets, sources, documents = (v[order_B] for v in (ids, targets, sources, documents))
        width = int(widths_B.max())
        ids, targets, sources = ids[:, :width], targets[:, :width], sources[:, :width]
        # Positions restart at padding as well, which no target attends to.
        positions = document_positions(documents if self.by_document else torch.zeros_like(documents))
        batch = Batch(ids, targets, sources, positions[:, :width], widths=tuple(widths_B[order_B].tolist()))
        return batch.pinned() if self.device.type == "cuda" else batch


def _widths(targets_BT: Tensor) -> Tensor:
    """Return the width that each row needs: one position after the last target, rounded up.

    Multiples of 32 limit recompilation by torch.compile.
    """
    length = targets_BT.shape[1]
    used_B = ((targets_BT != IGNORED) * torch.arange(2, length + 2)).amax(dim=1).clamp(min=2)
    return ((used_B + 31) // 32 * 32).clamp(max=length)


def without_tags(
    tag_id: int, ids_BT: Tensor, targets_BT: Tensor, sources_BT: Tensor, documents_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Remove the tags from the input, so that a tag is a target of the token before it and nothing else.

    The following tokens move up. The end of a row, which they leave, has no targets.
    """
    hidden_BT = ids_BT == tag_id
    order_BT = hidden_BT.long().argsort(dim=1, stable=True)
    targets_BT = targets_BT.masked_fill(hidden_BT, IGNORED)
    ids_BT, targets_BT, sources_BT, documents_BT = (
        values.gather(1, order_BT) for values in (ids_BT, targets_BT, sources_BT, documents_BT)
    )
    return ids_BT, targets_BT, sources_BT, documents_BT


def next_tokens(ids_BT: Tensor, learn_BT: Tensor) -> Tensor:
    """Return the targets: the next token at each position, or IGNORED if it is not to be learned."""
    return _shifted(ids_BT.masked_fill(~learn_BT, IGNORED), IGNORED)


def document_positions(documents_BT: Tensor) -> Tensor:
    """Return the position of each token in its document; `documents_BT` is the document's number."""
    positions_T = torch.arange(documents_BT.shape[1])
    starts_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    starts_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return positions_T - torch.where(starts_BT, positions_T, 0).cummax(dim=1).values


def _padded(values_BT: Tensor, rows: int) -> Tensor:
    """Return `values_BT` with `rows` more rows of zeros.

    None of their tokens is learned. They give each worker the same number of micro-batches, whose collective
    operations must match, and change no loss: it is a sum divided by the number of targets of all workers.
    """
    return torch.cat([values_BT, values_BT.new_zeros(rows, values_BT.shape[1])]) if rows else values_BT


def _shifted(values_BT: Tensor, last: int) -> Tensor:
    shifted_BT = torch.full_like(values_BT, last)
    shifted_BT[:, :-1] = values_BT[:, 1:]
    return shifted_BT
