"""The training loop: plain PyTorch over a process group that somebody else has made.

Ray Train calls `train` in its workers (stage.py). Without Ray the same loop runs under torchrun,
with the settings of the pretrain job:

    python -m torch.distributed.run --nproc-per-node 2 -m safety_ray.train.loop configs/pretrain/demo.yaml
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from safety_ray import artifact, job
from safety_ray.config import dump
from safety_ray.errors import UserError
from safety_ray.train import checkpoint
from safety_ray.train.data import TokenRows
from safety_ray.train.export import card, export
from safety_ray.train.loss import IGNORED
from safety_ray.train.metrics import Metrics
from safety_ray.train.model import LanguageModel, build, load_tokenizer, next_tokens
from safety_ray.train.optim import adamw, learning_rate
from safety_ray.train.parallel import shard
from safety_ray.train.settings import ModelConfig, PretrainConfig, TrainingConfig

Report = Callable[[dict[str, Any]], None]


class Diverged(UserError):
    """The loss is no longer a number; every worker sees it at the same step."""


def train(
    config: TrainingConfig,
    model_config: ModelConfig,
    rows: str,
    *,
    device: torch.device,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train on the token rows `rows` to the end, and export the model to `<output>/model`.

    Every process of the default group calls it. It goes on from the newest whole checkpoint in
    `<output>/checkpoints`; the batch is a function of seed and step, so the losses are those of a
    run that never stopped. `report` gets each line of `<output>/metrics.jsonl` in every process.
    Returns steps, tokens, tokens_per_second, final_loss and parameters. Raises Diverged where the
    loss is no longer a number.
    """
    data, rank = TokenRows(rows), dist.get_rank()
    steps, tag_id = config.steps(len(data)), int(data.record["tag_id"])
    tokenizer = load_tokenizer(f"{rows}/tokenizer", "rows")
    torch.manual_seed(config.seed)
    model = build(model_config, tokenizer, context=data.length, device=device.type)
    parameters = sum(p.numel() for p in model.parameters())
    if config.compile:
        for block in model.blocks:
            block.compile()
    shard(model, model.blocks, device=device.type, precision=config.precision)
    optimizer = adamw(model, config)
    done = checkpoint.load(f"{config.output}/checkpoints", model, optimizer)
    metrics = Metrics(config.output)
    if rank == 0:
        metrics.forget_after(done.step)

    begun = time.monotonic() - done.seconds
    line_begun = replace(done)
    for step, ids, targets in _batches(data, config, done.step, steps, device):
        rate = learning_rate(step, steps, config)
        loss, tag_loss, tokens = train_step(model, optimizer, ids, targets, rate, tag_id, config)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} at step {step + 1} of {steps}, at a learning rate of {rate:.2g}; "
                "take a lower lr, a longer warmup_share or precision=fp32, and another output."
            )
        done.step, done.tokens, done.seconds = step + 1, done.tokens + tokens, time.monotonic() - begun
        if done.step % config.log_every == 0 or done.step == steps:
            line = {
                "step": done.step,
                "loss": loss,
                "tag_loss": tag_loss,
                "lr": rate,
                "tokens": done.tokens,
                "tokens_per_second": round(
                    (done.tokens - line_begun.tokens) / (done.seconds - line_begun.seconds)
                ),
                "seconds": round(done.seconds, 2),
            }
            line_begun = replace(done)
            if rank == 0:
                metrics.append(line)
            if report:
                report(line)
        if done.step % config.checkpoint_every == 0 or done.step == steps:
            checkpoint.save(f"{config.output}/checkpoints", done, model, optimizer, config.keep)

    dist.barrier()  # the last line of the metrics is there for every process
    result = {**metrics.summary(), "parameters": parameters}
    text = card(settings=dump(config), rows=data.record, result=result)
    export(model, tokenizer, f"{config.output}/model", precision=config.precision, card=text)
    return result


def train_step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    ids_BT: Tensor,
    targets_BT: Tensor,
    rate: float,
    tag_id: int,
    config: TrainingConfig,
) -> tuple[float, float | None, int]:
    """One optimiser step on this worker's rows of the global batch.

    Returns, over the global batch: the mean loss, the mean loss where the tag was to be predicted
    (None where it nowhere was) and the number of tokens learned from.
    """
    tokens = (targets_BT != IGNORED).sum()
    dist.all_reduce(tokens)
    sums = torch.zeros(3, dtype=torch.float64, device=ids_BT.device)  # loss, loss at tags, tags
    micro = config.micro_batch_rows or len(ids_BT)
    for ids, targets in zip(ids_BT.split(micro), targets_BT.split(micro), strict=True):
        total, losses = model(ids, targets)
        (total / tokens.clamp(min=1)).backward()
        tags = targets == tag_id
        sums += torch.stack([total.detach().double(), losses[tags].double().sum(), tags.sum().double()])
    if config.grad_clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    dist.all_reduce(sums)
    (loss, tag_loss, tags_seen), count = sums.tolist(), int(tokens)
    return loss / max(count, 1), tag_loss / tags_seen if tags_seen else None, count


def _batches(
    data: TokenRows, config: TrainingConfig, first: int, steps: int, device: torch.device
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, ids, targets) of this worker, each read while the one before is trained on."""
    rank, world = dist.get_rank(), dist.get_world_size()

    def read(step: int) -> tuple[Tensor, Tensor]:
        ids, learn = map(
            torch.from_numpy, data.batch(step, config.batch_rows, seed=config.seed, rank=rank, world=world)
        )
        # Padding at the end of all rows costs time only. Steps of 32 spare torch.compile new shapes.
        used = max(int(learn.any(dim=0).nonzero().max()) + 1 if learn.any() else 1, 2)
        width = min(-(-used // 32) * 32, data.length)
        return ids[:, :width], next_tokens(ids[:, :width], learn[:, :width])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, first) if first < steps else None
        for step in range(first, steps):
            assert ahead is not None
            ids, targets = ahead.result()
            if step + 1 < steps:
                ahead = pool.submit(read, step + 1)
            yield step, ids.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def run(config: PretrainConfig) -> dict[str, Any]:
    """The pretrain job in the processes that torchrun has started, without Ray."""
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    config.rows_per_worker(world)
    gpu = torch.cuda.is_available() and config.device != "cpu"
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(config.cpus_per_worker)
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        begun: list[Any] = [None]
        if dist.get_rank() == 0:
            begun = [artifact.begin(config.output, config, {"rows": config.rows})]
        dist.broadcast_object_list(begun)
        out: artifact.Artifact = begun[0]
        if out.record is not None:
            return out.record
        result = train(replace(config, output=out.path), config.model, config.rows, device=device)
        if dist.get_rank() != 0:
            return {}
        return out.commit(balanced=False, rows_in=len(TokenRows(config.rows)), rows_out=1, **result)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    job.main(PretrainConfig, run)
