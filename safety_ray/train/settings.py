"""The settings of pretraining and finetuning: what they share, what is their own, what cannot be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.train.validation import ValidationConfig

LOGGERS = ("tensorboard", "wandb", "mlflow")
_COUNTS = (
    "batch_rows",
    "workers",
    "cpus_per_worker",
    "checkpoint_every",
    "keep",
    "log_every",
    "max_bad_steps",
)
_NOT_NEGATIVE = ("max_steps", "micro_batch_rows", "grad_clip", "weight_decay", "max_failures", "peak_tflops")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A Llama to begin with, or a checkpoint to continue from."""

    init: str = setting("folder or hub id of a model to continue from; empty: begin anew", default="")
    hidden_size: int = setting("width of the residual stream", default=256)
    layers: int = setting("decoder blocks", default=4)
    heads: int = setting("query heads", default=4)
    kv_heads: int = setting("key and value heads", default=4)
    intermediate_size: int = setting("width inside a feed-forward", default=688)
    tie_embeddings: bool = setting("one matrix for input and output embeddings", default=True)
    rope_theta: float = setting("base of the rotary embedding", default=10_000.0)
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = setting(
        "attention of transformers; auto: sdpa, but eager for short rows on CPUs, where it is faster",
        default="auto",
    )
    lora_rank: int = setting("train adapters of that rank alone (LoRA); 0: all parameters", default=0)
    lora_alpha: int = setting("their weight is lora_alpha / lora_rank", default=32)
    document_mask: bool = setting(
        "no attention from one document of a row to another, and positions that begin again with each",
        default=False,
    )

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.layers, self.heads, self.kv_heads, self.intermediate_size) < 1:
            raise UserError("model: every size must be at least 1.")
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise UserError(
                f"model.heads={self.heads} does not divide model.hidden_size={self.hidden_size} into "
                "heads of an even width."
            )
        if self.lora_rank < 0 or (self.lora_rank and not self.init):
            raise UserError(
                f"model.lora_rank={self.lora_rank}: must not be below 0, and above 0 only with model.init: "
                "adapters learn beside weights that know something."
            )
        if self.heads % self.kv_heads:
            raise UserError(f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """What every training has: length, batch, optimiser, schedule, workers, checkpoints."""

    output: str = setting(
        "folder to write, which every worker reaches; the model is in <output>/model", identity=False
    )
    seed: int = setting("of the first weights and of the order of rows", default=0)
    epochs: float = setting("passes over the token rows; the first is in the rows' order", default=1.0)
    max_steps: int = setting("stop after that many steps; 0: after the epochs", default=0)
    batch_rows: int = setting("rows in a step, over all workers", default=16)
    micro_batch_rows: int = setting("rows a worker takes at a time; 0: its whole share", default=0)
    lr: float = setting("highest learning rate", default=2e-3)
    weight_decay: float = setting("of matrices; vectors have none", default=0.01)
    beta1: float = setting("AdamW's memory of the gradient", default=0.9)
    beta2: float = setting("AdamW's memory of its square", default=0.95)
    grad_clip: float = setting("longest gradient; 0: any length", default=1.0)
    warmup_share: float = setting("share of steps in which the rate rises", default=0.05)
    decay_share: float = setting("share of steps, the last ones, in which it falls to 0", default=0.2)
    precision: Literal["auto", "bf16", "fp32"] = setting(
        "of weights in matrix products, and of the saved model; sums and the optimiser are fp32; auto: bf16 "
        "where every worker's device has it",
        default="auto",
    )
    compile: bool = setting("torch.compile each block: costs a minute, pays in long runs", default=False)
    activation_checkpointing: bool = setting(
        "compute each block again in the backward pass: less memory, a third more work",
        default=False,
        identity=False,
    )
    shard_within: Literal["all", "node"] = setting(
        "share the model out over all workers, or a whole copy over those of each node",
        default="all",
        identity=False,
    )
    workers: int = setting("Ray Train workers", default=2, identity=False)
    min_workers: int = setting(
        "go on with as few as these while nodes are missing, and grow again; 0: always `workers`",
        default=0,
        identity=False,
    )
    cpus_per_worker: int = setting("CPUs, and threads, of a worker", default=1, identity=False)
    device: Literal["auto", "cpu", "gpu"] = setting(
        "auto: GPUs where the cluster has one for each worker", default="auto", identity=False
    )
    autoscale: bool = setting(
        "the cluster grows: wait for workers that do not fit yet", default=False, identity=False
    )
    max_failures: int = setting("times that a lost worker is replaced", default=2, identity=False)
    on_bad_step: Literal["stop", "skip"] = setting(
        "where the loss or a gradient is no number, or the loss leaps: end the run, or leave the step out",
        default="stop",
    )
    spike: float = setting(
        "a loss so many times the median of the last 64 is a leap; 0: no loss is", default=0.0
    )
    max_bad_steps: int = setting("steps left out in a row that end the run", default=10)
    checkpoint_every: int = setting("steps from checkpoint to checkpoint", default=100, identity=False)
    keep: int = setting("checkpoints that stay", default=2, identity=False)
    checkpoints: str = setting(
        "folder or URL (s3://, gs://) for them; empty: <output>/checkpoints", default=""
    )
    log_every: int = setting("steps from line to line of metrics.jsonl", default=10, identity=False)
    peak_tflops: float = setting(
        "what a worker's device can do, to show the share in use (MFU); 0: what is known of the GPU",
        default=0.0,
        identity=False,
    )
    loggers: list[str] = setting(
        "where the figures go beside metrics.jsonl: tensorboard, wandb, mlflow", factory=list, identity=False
    )
    validation: ValidationConfig = setting("what checkpoints are measured on", factory=ValidationConfig)

    def __post_init__(self) -> None:
        for key in _COUNTS:
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 1.")
        for key in _NOT_NEGATIVE:
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)}: must not be below 0.")
        for key in ("lr", "epochs"):
            if not (getattr(self, key) > 0 and math.isfinite(getattr(self, key))):
                raise UserError(f"{key}={getattr(self, key)}: must be above 0.")
        if self.spike and not self.spike > 1:
            raise UserError(f"spike={self.spike}: must be above 1, times the usual loss, or 0.")
        for name in self.loggers:
            if name not in LOGGERS:
                raise UserError(f"loggers: '{name}' is none; {', '.join(LOGGERS)} are.")
        if "://" in self.output:
            raise UserError(
                f"output='{self.output}': workers write checkpoints together, so give a folder of a file "
                "system that all of them reach (a mounted one works)."
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"beta1={self.beta1}, beta2={self.beta2}: both must be in [0, 1).")
        if min(self.warmup_share, self.decay_share) < 0 or self.warmup_share + self.decay_share > 1:
            raise UserError(
                f"warmup_share={self.warmup_share} and decay_share={self.decay_share} must not be "
                "below 0, nor above 1 together."
            )
        if self.workers > self.batch_rows:
            raise UserError(
                f"workers={self.workers} is more than batch_rows={self.batch_rows}: each worker needs a row."
            )
        if not 0 <= self.min_workers <= self.workers:
            raise UserError(f"min_workers={self.min_workers}: must be 0 to workers={self.workers}.")
        for workers in range(self.min_workers or self.workers, self.workers + 1):
            self.rows_per_worker(workers)

    def checkpoint_folder(self) -> str:
        """Where the checkpoints lie."""
        return self.checkpoints or f"{self.output}/checkpoints"

    def rows_per_worker(self, workers: int) -> int:
        """Rows of a step that one of `workers` takes; UserError where they cannot be shared out."""
        rows, left = divmod(self.batch_rows, workers)
        if left:
            raise UserError(
                f"batch_rows={self.batch_rows} is not divisible by workers={workers}; "
                f"{rows * workers or workers} or {(rows + 1) * workers} would fit."
            )
        if self.micro_batch_rows and rows % self.micro_batch_rows:
            raise UserError(
                f"micro_batch_rows={self.micro_batch_rows} does not divide the {rows} rows of a worker."
            )
        return rows

    def steps(self, rows: int) -> int:
        """Optimiser steps over `rows` token rows; UserError where there is not one whole batch."""
        steps = self.max_steps or int(self.epochs * rows / self.batch_rows + 1e-9)
        if rows == 0 or steps == 0:
            raise UserError(
                f"{rows} token rows in epochs={self.epochs} make no batch of batch_rows={self.batch_rows}; "
                "pack more documents or take a smaller batch."
            )
        return steps


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(TrainingConfig):
    """Train a language model on token rows: token rows -> <output>/model."""

    rows: str = setting("folder of token rows that the pack job wrote")
    model: ModelConfig = setting("the model", factory=ModelConfig)

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)  # super() does not work in a dataclass with slots


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(TrainingConfig):
    """Teach a model to chat: model + chats -> <output>/model."""

    model: str = setting("folder of a pretraining, of a model, or a hub id")
    chats: str = setting(
        "JSONL or Parquet, file or folder; rows {messages: [{role, content}], unsafe?} or {question, answer}"
    )
    max_length: int = setting("tokens of a chat at most; 0: what the model can take", default=0)
    tag: str = setting(
        "the harmfulness tag; empty: the one stored with the model's tokenizer, else <|harmful|>", default=""
    )
    add_tag: bool = setting("give a model that was trained without the tag one now", default=False)
    tagged_share: float = setting("share of the completions of unsafe rows that carry tags", default=0.1)
    tag_rate: float = setting("chance of a tag before a word of such a completion", default=0.05)
    max_rejected: float = setting("share of rows that may be unusable", default=0.5, identity=False)
    lr: float = setting("highest learning rate", default=3e-4)
    batch_rows: int = setting("chats in a step, over all workers", default=16)
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = setting(
        "attention of transformers; auto: sdpa, but eager for short rows on CPUs", default="auto"
    )
    lora_rank: int = setting("train adapters of that rank alone (LoRA); 0: all parameters", default=0)
    lora_alpha: int = setting("their weight is lora_alpha / lora_rank", default=32)

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        for key in ("tagged_share", "tag_rate", "max_rejected"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"{key}={getattr(self, key)}: must be in [0, 1].")
        for key in ("max_length", "lora_rank"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)}: must not be below 0.")
