"""Two processes: the exchanges of a step, its gradients, and a folder that they do not share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from toy_step import ROWS, TAG, Toy, batch, expected_gradients, operators, training

from safety_ray.core.ports import free_port
from safety_ray.train.batches import Batch
from safety_ray.train.parallel import shard
from safety_ray.train.shared import NotShared, check_shared
from safety_ray.train.step import backward, read

pytestmark = pytest.mark.covers(*(f"safety_ray.train.{name}" for name in ("step", "parallel", "shared")))
WORLD, GROUPS = 2, 3  # two blocks, and the rest of the model


def share(rank: int) -> Batch:
    return list(batch().split(ROWS // WORLD))[rank]


def exchanges(rank: int, micro_batch_rows: int, **sharding: Any) -> dict[str, int]:
    """Count the collectives of a step after the first one; compare its gradients with one process."""
    gradients, loss = expected_gradients()
    norm = float(sum(gradient.square().sum() for gradient in gradients.values())) ** 0.5
    model = Toy()
    shard(model, model.blocks, device="cpu", precision="fp32", **sharding)
    config, gather_once = training(micro_batch_rows=micro_batch_rows), sharding["gather_once"]
    sums: list[Tensor] = []

    def step() -> None:
        model.zero_grad()
        sums.append(backward(model, share(rank), TAG, config, gather_once=gather_once))

    for _ in range(2):
        counts = operators(step, "c10d::")
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name])  # type: ignore[union-attr]
        result = read(sums[-1])
        assert result.loss == pytest.approx(loss, rel=1e-6)
        assert result.grad_norm == pytest.approx(norm, rel=1e-6)
    return counts


def work(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    os.environ["LOCAL_WORLD_SIZE"] = "1"  # with within="node": two nodes of one worker each
    check_shared("output", f"{folder}/both")
    with pytest.raises(NotShared, match=r"workers on .* do not see the files"):  # in both processes
        check_shared("output", f"{folder}/{rank}")
    sums = {"allreduce": 2}  # number of targets, and losses with the norm
    for rows in (4, 2, 1):
        once = exchanges(rank, rows, gather_once=True)
        assert once == {**sums, "allgather_base": GROUPS, "reduce_scatter_base": GROUPS}
        micro_batches = ROWS // WORLD // rows
        each = exchanges(rank, rows, gather_once=False)
        assert each["reduce_scatter_base"] == GROUPS * micro_batches
        assert each["allgather_base"] > GROUPS * micro_batches  # blocks: in forward and backward pass
        nodes = exchanges(rank, rows, gather_once=False, within="node")
        assert nodes == {"allreduce": 2 + GROUPS}
    dist.destroy_process_group()


def test_backward_exchanges_once_and_unshared_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()  # the folder exists for rank 1 as well, with other files
    spawn(work, (f"tcp://127.0.0.1:{free_port()}", str(tmp_path)), nprocs=WORLD)
