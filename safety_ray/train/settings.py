"""Settings of pretraining and finetuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from safety_ray.core.declare import setting
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
    """The size of a new Llama, or a model to continue from."""

    init: str = setting("folder or hub id of a model to continue from; empty: new weights", default="")
    hidden_size: int = setting("width of the model", default=256)
    layers: int = setting("decoder blocks", default=4)
    heads: int = setting("query heads", default=4)
    kv_heads: int = setting("key and value heads", default=4)
    intermediate_size: int = setting("width of the feed-forward layers", default=688)
    tie_embeddings: bool = setting("use one matrix for input and output embeddings", default=True)
    rope_theta: float = setting("base of the rotary embedding", default=10_000.0)
    attention: Literal[
        "auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"
    ] = setting(
        "attention implementation; auto: on GPUs with document_mask flex_attention, for short rows on CPUs "
        "eager, which is faster there, else sdpa, without a mask where the model allows it",
        default="auto",
    )
    lora_rank: int = setting("train only adapters of this rank (LoRA); 0: train all parameters", default=0)
    lora_alpha: int = setting("adapters are scaled by lora_alpha / lora_rank", default=32)
    document_mask: bool = setting(
        "no attention between documents of a row; positions restart with each document",
        default=False,
    )

    compile_loss: bool = setting(
        "torch.compile the passes over the logits; takes about 10 s at the first step",
        default=False,
    )

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.layers, self.heads, self.kv_heads, self.intermediate_size) < 1:
            raise UserError("model: every size must be at least 1.")
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise UserError(
                f"model.heads={self.heads}: must divide model.hidden_size={self.hidden_size} into heads "
                "of an even width."
            )
        if self.rope_theta <= 0 or self.lora_alpha <= 0:
            raise UserError(
                f"model.rope_theta={self.rope_theta} and model.lora_alpha={self.lora_alpha}: must be above 0."
            )
        if self.lora_rank < 0 or (self.lora_rank and not self.init):
            raise UserError(
                f"model.lora_rank={self.lora_rank}: must be at least 0, and 0 without model.init."
            )
        if self.attention.startswith("flash_attention") and self.document_mask:
            raise UserError(
                f"model.attention={self.attention} does not mask documents in micro-batches of several "
                "rows; use flex_attention or sdpa, or model.document_mask=false."
            )
        if self.attention == "flex_attention" and not self.document_mask:
            raise UserError("model.attention=flex_attention is for model.document_mask=true; use auto.")
        if self.heads % self.kv_heads:
            raise UserError(f"model.kv_heads={self.kv_heads}: must divide model.heads={self.heads}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Settings that pretraining and finetuning share."""

    output: str = setting(
        "folder that all workers share, or URL, to write; the model is in <output>/model",
        identity=False,
    )
    seed: int = setting("seed of new weights and of the order of rows", default=0)
    epochs: float = setting(
        "passes over the token rows; the first one is in order, later ones are shuffled", default=1.0
    )
    max_steps: int = setting("stop after this many steps; 0: after the epochs", default=0)
    batch_rows: int = setting(
        "rows per step, over all workers; fastest if divisible by their number", default=16
    )
    micro_batch_rows: int = setting(
        "rows per forward pass of a worker; 0: the worker's whole share of the batch", default=0
    )
    lr: float = setting("peak learning rate", default=2e-3)
    weight_decay: float = setting("weight decay of matrices; vectors have none", default=0.01)
    beta1: float = setting("AdamW's decay rate of the first moment", default=0.9)
    beta2: float = setting("AdamW's decay rate of the second moment", default=0.95)
    grad_clip: float = setting("maximum norm of the gradient; 0: no clipping", default=1.0)
    warmup_share: float = setting("share of steps with a rising learning rate", default=0.05)
    decay_share: float = setting(
        "share of steps, at the end, in which the learning rate falls to 0", default=0.2
    )
    read_tags: bool = setting(
        "whether tags are part of the input; false: they are only targets, so that P(tag) depends on the "
        "text alone, as in decoding, which never emits the tag",
        default=True,
    )
    tag_weight: float = setting(
        "weight of the choice between the tag and all other tokens in the loss; 1: cross-entropy", default=1.0
    )
    precision: Literal["auto", "bf16", "fp32"] = setting(
        "precision of matrix products and of the saved model; reductions and the optimizer use fp32; auto: "
        "bf16 if the devices of all workers support it natively",
        default="auto",
    )
    compile: bool = setting(
        "torch.compile each block: takes about a minute, worthwhile in long runs", default=False
    )
    fp8: bool = setting(
        "matrix products of the blocks in float8, with torchao: needs compile=true and GPUs of compute "
        "capability 8.9 (Ada, Hopper) or newer",
        default=False,
    )
    activation_checkpointing: bool = setting(
        "recompute each block in the backward pass: less memory, a third more compute",
        default=False,
        identity=False,
    )
    shard_within: Literal["all", "node"] = setting(
        "all: shard the model over all workers; node: one copy per node, sharded over its workers",
        default="all",
        identity=False,
    )
    gather: Literal["auto", "step", "use"] = setting(
        "step: gather the sharded weights and reduce gradients once per step, which needs the memory of "
        "unsharded weights and gradients; use: for each use and micro-batch; auto: step if that memory is at "
        "most a fourth of the GPU's",
        default="auto",
        identity=False,
    )
    workers: int = setting("Ray Train workers", default=2, identity=False)
    min_workers: int = setting(
        "continue with as few as this many workers while nodes are missing; 0: always `workers`",
        default=0,
        identity=False,
    )
    cpus_per_worker: int = setting("CPUs and threads per worker", default=1, identity=False)
    device: Literal["auto", "cpu", "gpu"] = setting(
        "auto: GPUs if the cluster has one for each worker", default="auto", identity=False
    )
    autoscale: bool = setting(
        "the cluster autoscales: wait for nodes if the workers do not fit yet", default=False, identity=False
    )
    max_failures: int = setting("number of times that lost workers are replaced", default=2, identity=False)
    on_bad_step: Literal["stop", "skip"] = setting(
        "if the loss or gradient is not finite, or the loss spikes: end the run, or skip the step",
        default="stop",
    )
    spike: float = setting(
        "a loss above this many times the median of the last 64 is a spike; 0: never", default=0.0
    )
    max_bad_steps: int = setting("number of consecutive skipped steps that ends the run", default=10)
    checkpoint_every: int = setting("steps between checkpoints", default=100, identity=False)
    keep: int = setting("number of checkpoints to keep", default=2, identity=False)
    checkpoints: str = setting(
        "folder or URL (s3://, gs://) of the checkpoints; empty: <output>/checkpoints", default=""
    )
    log_every: int = setting("steps between lines of metrics.jsonl", default=10, identity=False)
    peak_tflops: float = setting(
        "peak of a worker's device, from which MFU is computed; 0: known value of the GPU",
        default=0.0,
        identity=False,
    )
    loggers: list[str] = setting(
        "loggers in addition to metrics.jsonl: tensorboard, wandb, mlflow", factory=list, identity=False
    )
    validation: ValidationConfig = setting("validation of checkpoints", factory=ValidationConfig)

    def __post_init__(self) -> None:
        for key in _COUNTS:
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 1.")
        for key in _NOT_NEGATIVE:
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 0.")
        for key in ("lr", "epochs"):
            if not (getattr(self, key) > 0 and math.isfinite(getattr(self, key))):
                raise UserError(f"{key}={getattr(self, key)}: must be above 0 and finite.")
        if not (self.tag_weight >= 1 and math.isfinite(self.tag_weight)):
            raise UserError(f"tag_weight={self.tag_weight}: must be finite and at least 1.")
        if self.spike and not self.spike > 1:
            raise UserError(f"spike={self.spike}: must be above 1, or 0.")
        for name in self.loggers:
            if name not in LOGGERS:
                raise UserError(f"loggers: unknown logger '{name}'; choose from {', '.join(LOGGERS)}.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"beta1={self.beta1}, beta2={self.beta2}: both must be in [0, 1).")
        if min(self.warmup_share, self.decay_share) < 0 or self.warmup_share + self.decay_share > 1:
            raise UserError(
                f"warmup_share={self.warmup_share} and decay_share={self.decay_share}: both must be at "
                "least 0 and their sum at most 1."
            )
        if self.fp8 and (not self.compile or self.precision == "fp32"):
            raise UserError(
                "fp8=true: needs compile=true, without which casts to float8 take longer than they save, and "
                "precision=bf16."
            )
        if self.workers > self.batch_rows:
            raise UserError(f"workers={self.workers}: must be at most batch_rows={self.batch_rows}.")
        if not 0 <= self.min_workers <= self.workers:
            raise UserError(f"min_workers={self.min_workers}: must be from 0 to workers={self.workers}.")

    def checkpoint_folder(self) -> str:
        """Return the folder or URL of the checkpoints."""
        return self.checkpoints or f"{self.output}/checkpoints"

    def rows_per_worker(self, workers: int) -> int:
        """Return the rows of a step per worker: of those with most, if they cannot be divided equally."""
        return -(-self.batch_rows // workers)

    def steps(self, rows: int) -> int:
        """Return the number of steps for `rows` token rows. Raises UserError if it is 0."""
        steps = self.max_steps or int(self.epochs * rows / self.batch_rows + 1e-9)
        if rows == 0 or steps == 0:
            raise UserError(
                f"batch_rows={self.batch_rows}: {rows} token rows in epochs={self.epochs} are "
                "less than a batch; pack more documents or use a smaller batch."
            )
        return steps


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(TrainingConfig):
    """Train a language model on token rows: token rows -> <output>/model."""

    rows: str = setting("output folder of the pack job")
    model: ModelConfig = setting("settings of the model", factory=ModelConfig)

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)  # super() does not work in a dataclass with slots


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(TrainingConfig):
    """Finetune a model on chats: model + chats -> <output>/model."""

    model: str = setting("output folder of pretrain, folder of a model, or hub id")
    chats: str = setting(
        "JSONL or Parquet, file or folder; rows {messages: [{role, content}], unsafe?} or {question, answer}"
    )
    max_length: int = setting(
        "maximum tokens of a chat; longer ones are truncated; 0: the model's context", default=0
    )
    tag: str = setting(
        "the harmfulness tag; empty: the one stored with the model's tokenizer, else <|harmful|>", default=""
    )
    add_tag: bool = setting("add the tag to a model that was trained without it", default=False)
    tagged_share: float = setting("share of the completions of unsafe rows that contain tags", default=0.1)
    tag_rate: float = setting("probability of a tag before a word of such a completion", default=0.05)
    max_rejected: float = setting(
        "share of rows that may be rejected before the job fails", default=0.5, identity=False
    )
    lr: float = setting("peak learning rate", default=3e-4)
    batch_rows: int = setting("chats per step, over all workers", default=16)
    micro_batch_rows: int = setting(
        "chats per forward pass of a worker, sorted by length: fewer chats need less padding; 0: the "
        "worker's whole share of the batch",
        default=8,
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"] = setting(
        "attention implementation; auto: sdpa, but eager for short rows on CPUs", default="auto"
    )
    lora_rank: int = setting("train only adapters of this rank (LoRA); 0: train all parameters", default=0)
    lora_alpha: int = setting("adapters are scaled by lora_alpha / lora_rank", default=32)

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        for key in ("tagged_share", "tag_rate", "max_rejected"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"{key}={getattr(self, key)}: must be in [0, 1].")
        for key in ("max_length", "lora_rank"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 0.")
        if self.lora_alpha <= 0:
            raise UserError(f"lora_alpha={self.lora_alpha}: must be above 0.")
