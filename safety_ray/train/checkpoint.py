"""Checkpoints of a training: sharded, whole or absent, loadable by any number of workers.

<folder>/step-00000200/   torch.distributed.checkpoint; `.metadata` is written last

They are written beside training, from a copy in memory, one at a time. The folder may lie on any
filesystem that fsspec reaches.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader as loader
from torch.distributed.checkpoint import state_dict_saver as saver
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from safety_ray.core import filesystem

Whole = Callable[[int, str], frozenset[int]]
"""Told step and path of a checkpoint that is whole; returns steps whose checkpoints are still being read."""


@dataclass(slots=True)
class Progress:
    """How far a training is: what has to be known, beside the weights, to go on."""

    step: int = 0  # optimiser steps done
    tokens: int = 0  # tokens learned from
    seconds: float = 0.0  # spent in steps
    recent: list[float] = field(default_factory=list)  # the last losses of steps that were taken
    skipped: int = 0  # steps not taken, because their loss or gradient was bad
    bad_in_a_row: int = 0  # of these, the last ones
    precision: str = ""  # of the matrix products since the first step


class Checkpoints:
    """The checkpoints in `folder`, of which the `keep` newest stay. All workers call each method.

    `begun` is how far the newest whole one is. `whole` is called in every worker for the one that was
    loaded and for each that is written. `waited` is the time in seconds that training stood still for them.
    """

    def __init__(self, folder: str, keep: int, whole: Whole = lambda step, path: frozenset()) -> None:
        self.folder, self.keep, self.whole = folder.rstrip("/"), keep, whole
        self.waited = 0.0
        self._writing: tuple[int, Any] | None = None
        # Its own group: a write asks the other workers while their training does, too.
        self._group = dist.new_group(backend="gloo")
        self.begun = self._begun()

    def _begun(self) -> Progress:
        newest: list[Any] = [None]
        if dist.get_rank() == 0:
            newest = names(self.folder)[-1:] or [None]
        dist.broadcast_object_list(newest)  # one worker looks: a shared file system may show others less
        if newest[0] is None:
            return Progress()
        state = {"progress": ""}
        loader.load(state, storage_reader=_reader(f"{self.folder}/{newest[0]}"))
        return Progress(**json.loads(state["progress"]))

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Put the checkpoint of `begun`, if there is one, into `model` and `optimizer`; returns `begun`."""
        if self.begun.step:
            path = self._path(self.begun.step)
            weights, moments = get_state_dict(model, optimizer)
            state: dict[str, Any] = {"model": weights, "optimizer": moments}
            loader.load(state, storage_reader=_reader(path))
            set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
            self.whole(self.begun.step, path)
        return self.begun

    def save(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Begin to write the checkpoint of `progress.step`, once the one before is whole."""
        self.wait()
        begun = time.monotonic()
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": moments, "progress": json.dumps(asdict(progress))}
        path = self._path(progress.step)
        writer = FsspecWriter(path) if "://" in path else FileSystemWriter(path)
        writing = saver.async_save(state, storage_writer=writer, process_group=self._group)
        self._writing = progress.step, writing
        self.waited += time.monotonic() - begun

    def wait(self) -> None:
        """Return when no checkpoint is being written; raises what went wrong with the last one."""
        begun = time.monotonic()
        if self._writing is not None:
            step, writing = self._writing
            self._writing = None
            assert isinstance(writing, Future)
            writing.result()
            read = self.whole(step, self._path(step))
            if dist.get_rank() == 0:
                remove_old(self.folder, self.keep, read)
        self.waited += time.monotonic() - begun

    close = wait

    def _path(self, step: int) -> str:
        return f"{self.folder}/{_name(step)}"


def load_weights(path: str, model: nn.Module) -> None:
    """Put the weights of the checkpoint `path` into `model`, in a process by itself."""
    weights = get_model_state_dict(model)
    loader.load({"model": weights}, storage_reader=_reader(path), no_dist=True)
    set_model_state_dict(model, weights)


def names(folder: str) -> list[str]:
    """Names of the finished checkpoints, oldest first."""
    fs, root = filesystem.find(folder)
    fs.invalidate_cache()
    return sorted(path.rsplit("/", 2)[-2] for path in fs.glob(f"{root}/step-*/.metadata"))


def remove_old(folder: str, keep: int, read: frozenset[int] = frozenset()) -> None:
    """Remove all checkpoints but the `keep` newest and those of the steps in `read`."""
    fs, root = filesystem.find(folder)
    stay = {_name(step) for step in read}
    for old in names(folder)[:-keep]:
        if old not in stay:
            fs.rm(f"{root}/{old}", recursive=True)


def _name(step: int) -> str:
    return f"step-{step:08}"


def _reader(path: str) -> FileSystemReader:
    return FsspecReader(path) if "://" in path else FileSystemReader(path)
