"""Checkpoints of a training: sharded, whole or absent, loadable by any number of workers.

<output>/checkpoints/step-00000200/   torch.distributed.checkpoint; `.metadata` is written last
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict


@dataclass(slots=True)
class Progress:
    """How far a training is: what has to be known, beside the weights, to go on."""

    step: int = 0  # optimiser steps done
    tokens: int = 0  # tokens learned from
    seconds: float = 0.0  # spent in steps
    recent: list[float] = field(default_factory=list)  # the last losses of steps that were taken
    skipped: int = 0  # steps not taken, because their loss or gradient was bad
    bad_in_a_row: int = 0  # of these, the last ones


def save(
    folder: str, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int
) -> None:
    """Write the checkpoint of `progress.step`; all workers call it. The `keep` newest ones stay."""
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments, "progress": json.dumps(asdict(progress))}
    state_dict_saver.save(state, checkpoint_id=Path(folder) / f"step-{progress.step:08}")
    if dist.get_rank() == 0:
        for old in _whole(folder)[:-keep]:
            shutil.rmtree(old)


def load(folder: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put the newest whole checkpoint into `model` and `optimizer`; all workers call it."""
    found: list[Any] = [None]
    if dist.get_rank() == 0:
        found = [str(path) for path in _whole(folder)[-1:]] or [None]
    dist.broadcast_object_list(found)  # one worker looks: a shared file system may show others less
    if found[0] is None:
        return Progress()
    weights, moments = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": weights, "optimizer": moments, "progress": ""}
    state_dict_loader.load(state, checkpoint_id=found[0])
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    return Progress(**json.loads(state["progress"]))


def _whole(folder: str) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(path.parent for path in Path(folder).glob("step-*/.metadata"))
