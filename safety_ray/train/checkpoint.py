"""Checkpoints of a run: sharded, atomic, loadable by any number of workers.

<folder>/step-00000200/   torch.distributed.checkpoint; `.metadata` is written last

They are written in the background, from a copy in memory, one at a time. The folder may be on any filesystem
that fsspec supports.
"""

from __future__ import annotations

import glob
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

from safety_ray.core import artifact, filesystem
from safety_ray.core.errors import UserError

OnCheckpoint = Callable[[int, str], frozenset[int]]
"""Receives step and path of a complete checkpoint; returns the steps whose checkpoints are still in use"""


@dataclass(slots=True)
class Progress:
    """State of a run that is needed to resume it, in addition to the weights."""

    step: int = 0  # optimiser steps done
    tokens: int = 0  # target tokens seen
    seconds: float = 0.0  # time spent in steps
    recent: list[float] = field(default_factory=list)  # losses of the last steps that were applied
    skipped: int = 0  # steps not applied, because their loss or gradient was bad
    bad_in_a_row: int = 0  # steps skipped since the last one that was applied
    precision: str = ""  # of matrix products, unchanged since the first step


class Checkpoints:
    """The checkpoints in `folder`. All workers call each method.

    `resumed` is the progress of the newest complete checkpoint. `waited` is the time in seconds that training
    has waited for checkpoints.

    Args:
        folder: path or URL.
        keep: number of checkpoints to keep; older ones are deleted.
        on_checkpoint: called in every worker for the loaded checkpoint and for each one written.
    """

    def __init__(
        self, folder: str, keep: int, on_checkpoint: OnCheckpoint = lambda step, path: frozenset()
    ) -> None:
        self.folder, self.keep, self.on_checkpoint = folder.rstrip("/"), keep, on_checkpoint
        self.waited = 0.0
        self._writing: tuple[int, Any] | None = None
        # Its own process group, because background writes communicate concurrently with training.
        self._group = dist.new_group(backend="gloo")
        self.resumed = self._newest_progress()

    def _newest_progress(self) -> Progress:
        newest: list[Any] = [None]
        if dist.get_rank() == 0:
            newest = names(self.folder)[-1:] or [None]
        dist.broadcast_object_list(
            newest
        )  # one worker decides: a shared file system may show others an older state
        if newest[0] is None:
            return Progress()
        state = {"progress": ""}
        loader.load(state, storage_reader=_reader(f"{self.folder}/{newest[0]}"))
        return Progress(**json.loads(state["progress"]))

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load the newest complete checkpoint, if any, into `model` and `optimizer`; return its progress."""
        if self.resumed.step:
            path = self._path(self.resumed.step)
            weights, moments = get_state_dict(model, optimizer)
            state: dict[str, Any] = {"model": weights, "optimizer": moments}
            loader.load(state, storage_reader=_reader(path))
            set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
            self.on_checkpoint(self.resumed.step, path)
        return self.resumed

    def save(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Start to write the checkpoint of `progress.step`, after the previous one is complete."""
        self.wait()
        start = time.monotonic()
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": moments, "progress": json.dumps(asdict(progress))}
        path = self._path(progress.step)
        writer = FsspecWriter(path) if "://" in path else FileSystemWriter(path)
        writing = saver.async_save(state, storage_writer=writer, process_group=self._group)
        self._writing = progress.step, writing
        self.waited += time.monotonic() - start

    def wait(self) -> None:
        """Wait until no checkpoint is being written. Raises the error of the last write, if it failed."""
        start = time.monotonic()
        if self._writing is not None:
            step, writing = self._writing
            self._writing = None
            assert isinstance(writing, Future)
            writing.result()
            read = self.on_checkpoint(step, self._path(step))
            if dist.get_rank() == 0:
                remove_old(self.folder, self.keep, read)
        self.waited += time.monotonic() - start

    close = wait

    def _path(self, step: int) -> str:
        return f"{self.folder}/{_name(step)}"


def load_weights(path: str, model: nn.Module) -> None:
    """Load the weights of the checkpoint `path` into `model`, without a process group."""
    weights = get_model_state_dict(model)
    loader.load({"model": weights}, storage_reader=_reader(path), no_dist=True)
    set_model_state_dict(model, weights)


def names(folder: str) -> list[str]:
    """Return the names of the complete checkpoints, oldest first."""
    fs, root = filesystem.find(folder)
    fs.invalidate_cache()
    return sorted(path.rsplit("/", 2)[-2] for path in fs.glob(f"{glob.escape(root)}/step-*/.metadata"))


def step_of(name: str) -> int:
    """Return the step of a checkpoint."""
    return int(name.removeprefix("step-"))


def check_own(folder: str, output: str) -> None:
    """Raise UserError if a run without an `output` folder would resume from checkpoints in `folder`."""
    if artifact.state(output) == "absent" and names(folder):
        raise UserError(
            f"checkpoints='{folder}' has checkpoints of another run; give an empty folder, or the output "
            "folder of that run."
        )


def remove_old(folder: str, keep: int, read: frozenset[int] = frozenset()) -> None:
    """Delete all checkpoints except the `keep` newest and those of the steps in `read`."""
    fs, root = filesystem.find(folder)
    in_use = {_name(step) for step in read}
    for name in names(folder)[:-keep]:
        if name not in in_use:
            fs.rm(f"{root}/{name}", recursive=True)


def _name(step: int) -> str:
    return f"step-{step:08}"


def _reader(path: str) -> FileSystemReader:
    return FsspecReader(path) if "://" in path else FileSystemReader(path)
