"""The training loop: plain PyTorch in an existing process group.

Ray Train calls `train` in its workers (jobs/pretrain.py). Without Ray, torchrun runs the same loop with the
settings of the pretrain job:

    python -m torch.distributed.run --nproc-per-node 2 -m safety_ray.train.loop configs/pretrain/demo.yaml
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from safety_ray.core import artifact, job, lost_work, model_path
from safety_ray.core.config import dump
from safety_ray.core.errors import UserError
from safety_ray.train import float8, loggers
from safety_ray.train.adapters import is_adapter
from safety_ray.train.batches import Batches
from safety_ray.train.checkpoint import Checkpoints, OnCheckpoint, check_own
from safety_ray.train.data import TokenRows
from safety_ray.train.export import card, export, write_card
from safety_ray.train.guard import Guard
from safety_ray.train.lineage import lineage
from safety_ray.train.meter import Meter, peak_of
from safety_ray.train.metrics import Metrics, Resumes, Validations
from safety_ray.train.model import LanguageModel, build, load_tokenizer
from safety_ray.train.optim import adamw, learning_rate
from safety_ray.train.parallel import agreed_gather, agreed_precision, compile_blocks, recompute, shard
from safety_ray.train.settings import ModelConfig, PretrainConfig, TrainingConfig
from safety_ray.train.shared import check_shared
from safety_ray.train.step import Copy, backward, update

Report = Callable[[dict[str, Any]], None]


def train(
    config: TrainingConfig,
    model_config: ModelConfig,
    rows: str,
    *,
    device: torch.device,
    report: Report | None = None,
    preempted: Callable[[], bool] = lambda: False,
    after_preemption: Callable[[], None] = lambda: None,
    on_checkpoint: OnCheckpoint = lambda step, path: frozenset(),
    validations: Validations | None = None,
    read_late: bool | None = None,
) -> dict[str, Any]:
    """Train on the token rows `rows` and export the model to `<output>/model`.

    Every process of the default group calls this function. `output` is a folder that all of them share, or a
    URL. Training resumes from the newest complete checkpoint in `<output>/checkpoints`. The batch is a
    function of seed and step, so the losses are those of a run without interruption. (With `spike` and late
    reading, a step after a preemption may be judged by one more loss.)

    Args:
        config: settings of the run.
        model_config: settings of the model.
        rows: folder of token rows.
        device: device of this process.
        report: receives each line of `<output>/metrics.jsonl`, in every process.
        preempted: returns true if the machine of this process will be preempted soon. After the step, or on
            a GPU after the next one, all processes then write a checkpoint.
        after_preemption: called in every process when that checkpoint is complete.
        on_checkpoint: called in every process for each checkpoint; see checkpoint.py.
        validations: validations to log.
        read_late: read the result of a step after the next one has been queued; by default on GPUs.

    Returns:
        steps, skipped, tokens, tokens_per_second, final_loss, parameters, precision,
        attention (the implementation's name in transformers), and lost_work if it has resumed.

    Raises:
        Diverged: a bad step ends the run.
        NotShared: the processes do not share `<output>`, or the folder of the checkpoints.
    """
    check_shared("output", config.output)
    if config.checkpoints:
        check_shared("checkpoints", config.checkpoints)
    data, rank = TokenRows(rows), dist.get_rank()
    steps, tag_id = config.steps(len(data)), data.tag_id
    tokenizer = load_tokenizer(f"{rows}/tokenizer", "rows")
    model = _build(config, model_config, tokenizer, data.length, device)
    parameters = sum(p.numel() for name, p in model.named_parameters() if not is_adapter(name))
    flops_per_token = model.flops_per_token(data.length)
    checkpoints = Checkpoints(config.checkpoint_folder(), config.keep, on_checkpoint)
    precision = checkpoints.resumed.precision or agreed_precision(config.precision, device)
    gather_once = agreed_gather(config.gather, model, device, precision)
    shard(
        model, model.blocks, device=device.type, precision=precision, within=config.shard_within,
        gather_once=gather_once,
    )  # fmt: skip
    optimizer = adamw(model, config)
    done = replace(checkpoints.load(model, optimizer), precision=precision)
    guard = Guard(config, done, steps)
    batches = Batches(data, config, done.step, steps, device, by_document=model_config.document_mask)
    peak = (config.peak_tflops or peak_of(device, precision)) * 1e12 * dist.get_world_size()
    meter = Meter(done, steps, flops_per_token=flops_per_token, peak=peak, device=device)
    metrics = Metrics(config.output)
    if rank == 0:
        earlier = metrics.lines()
        if done.step or earlier:
            Resumes(config.output).add(done.step, done.seconds, earlier)
        metrics.forget_after(done.step)
        if validations:
            validations.forget_after(done.step)
    names = config.loggers if rank == 0 else []
    with (
        closing(loggers.Loggers(names, config.output, done.step, dump(config))) as run_loggers,
        closing(checkpoints),
    ):
        start = time.monotonic() - done.seconds
        unread: deque[tuple[Copy, float]] = deque()  # the steps after `done.step`
        keep = int(device.type == "cuda" if read_late is None else read_late)

        def record(copy: Copy, rate: float) -> bool:
            """Record the step after `done.step`. Returns whether some worker will be preempted soon."""
            result = copy.read()
            bad = guard.judge(result, rate)
            if not bad:
                done.tokens += result.tokens
            done.step, done.seconds = done.step + 1, time.monotonic() - start
            if done.step % config.log_every == 0 or done.step == steps or bad:
                line = meter.line(done, result, rate, waits=(batches.waited, checkpoints.waited), bad=bad)
                if rank == 0:
                    metrics.append(line)
                    run_loggers.log(line)
                    for validation in validations.new() if validations else []:
                        run_loggers.validated(validation)
                if report:
                    report(line)
            return result.preempted

        for step, batch in batches:
            rate = learning_rate(step, steps, config)
            sums = backward(model, batch, tag_id, config, gather_once=gather_once, preempted=preempted())
            update(optimizer, sums, rate, grad_clip=config.grad_clip, limit=guard.limit())
            unread.append((Copy(sums), rate))
            due = (step + 1) % config.checkpoint_every == 0 or step + 1 == steps
            soon = False
            while len(unread) > (0 if due or soon else keep):  # before a checkpoint, read all steps
                soon |= record(*unread.popleft())
            if due or soon:
                metrics.flush()  # a run that resumes from the checkpoint has the lines up to it
                checkpoints.save(done, model, optimizer)
            if soon:
                checkpoints.wait()  # complete before the preemption; training continues until then
                after_preemption()
        # Before the last checkpoint is complete and the loggers are closed, each of which may fail.
        export(model, tokenizer, f"{config.output}/model", precision=precision)

    results: list[Any] = [None]
    if rank == 0:
        lost = Resumes(config.output).lost_work()
        details = {"parameters": parameters, "precision": precision, "attention": model.attention}
        results = [metrics.summary() | details | ({lost_work.KEY: lost} if lost else {})]
        _write_card(config, model_config, data, results[0])
    dist.broadcast_object_list(results)
    result: dict[str, Any] = results[0]
    return result


def _build(
    config: TrainingConfig, model_config: ModelConfig, tokenizer: Any, length: int, device: torch.device
) -> LanguageModel:
    """Return the model for rows of `length` tokens, before it is sharded; the same in every process."""
    torch.manual_seed(config.seed)
    model = build(model_config, tokenizer, context=length, device=device.type)
    if config.fp8:
        float8.check(device)
        float8.convert(model.blocks)
    if config.activation_checkpointing:
        recompute(model.blocks)
    if config.compile:
        compile_blocks(model.blocks, fp8=config.fp8)
    return model


def _write_card(
    config: TrainingConfig, model_config: ModelConfig, rows: TokenRows, result: dict[str, Any]
) -> None:
    """Write the card of the exported model, with the lineage of its data."""
    origin = lineage("rows", rows.path) + (lineage("model", model_config.init) if model_config.init else [])
    text = card(settings=dump(config), rows=rows.record, result=result, lineage=origin)
    write_card(f"{config.output}/model", text)


def _exit_after_sigterm() -> None:
    raise SystemExit(128 + signal.SIGTERM)


def pretrain_without_ray(config: PretrainConfig) -> dict[str, Any]:
    """Run the pretrain job in the processes that torchrun has started."""
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if world > config.batch_rows:
        raise UserError(f"batch_rows={config.batch_rows}: must be at least the number of processes, {world}.")
    if config.validation.every:
        raise UserError("validation.every: needs Ray; use python -m jobs.pretrain, or set it to 0.")
    gpu = torch.cuda.is_available() and config.device != "cpu"
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(config.cpus_per_worker)
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        opened: list[Any] = [None]
        if dist.get_rank() == 0:
            inputs = {"rows": config.rows, **model_path.as_input("model", config.model.init)}
            check_own(config.checkpoint_folder(), config.output)
            opened = [artifact.begin(config.output, config, inputs)]
        dist.broadcast_object_list(opened)
        out: artifact.Artifact = opened[0]
        if out.record is not None:
            return out.record
        received: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
        result = train(
            replace(config, output=out.path), config.model, config.rows, device=device,
            preempted=lambda: bool(received), after_preemption=_exit_after_sigterm,
        )  # fmt: skip
        if dist.get_rank() != 0:
            return {}
        return out.commit(balanced=False, rows_in=len(TokenRows(config.rows)), rows_out=1, **result)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    job.main(PretrainConfig, pretrain_without_ray)
