"""Calculate what a corpus costs at each stage: time, money, storage and files.

    python -m benchmarks.cost documents=runs/ingest rows=runs/pack tokens=[6e11,15e12]

`documents` and `rows` are finished output folders of ingest or score, and of pack, whose bytes per token are
used. CPU speeds are those that the other benchmarks print for a core of an AMD EPYC with native bf16
(docs/benchmarks.md, docs/ingest.md, docs/scale.md). Speeds of GPUs are calculated, because none has been
measured: 2 FLOPs per parameter and token, 6 for training, divided by the peak and the share of it that is
reached. For training this share is the paper's; the other shares are assumptions, and so are the prices and
the tokens of finetuning and evaluation. All of them are settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pyarrow.compute as pc

from safety_ray.core import dataset, filesystem, parquet
from safety_ray.core.config import setting
from safety_ray.core.errors import UserError
from safety_ray.core.job import main
from safety_ray.pack.planning import SHARD_TOKENS

_HOUR, _DAY = 3600, 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class CostEstimate:
    """Calculate what each stage costs for corpora of given sizes."""

    documents: str = setting("finished output folder of ingest or score, for the bytes of texts")
    rows: str = setting("finished output folder of pack, for the bytes of token rows")
    tokens: list[float] = setting("tokens of the corpora", factory=lambda: [6e11, 15e12])
    tokens_per_page: float = setting("tokens of a page", default=1000.0)
    characters_per_token: float = setting("characters of a token", default=4.3)
    pages_per_second: float = setting("pages that a core extracts per second", default=94.0)
    report_bytes_per_second: float = setting(
        "bytes that a core counts per second for the report", default=24.8e6
    )
    packed_per_second: float = setting("tokens that a core packs per second", default=1_256_314.0)
    compare_seconds: float = setting(
        "core seconds per page to compare all pages, in each of ingest, score and pack", default=7e-6
    )
    classifier_parameters: float = setting("parameters of the encoder", default=137e6)
    writer_parameters: float = setting("parameters of the model that rewrites", default=8e9)
    model_parameters: float = setting("parameters of the model that is trained", default=1.7e9)
    rewritten_share: float = setting("share of the tokens that is rewritten", default=1 / 6)
    drafts: float = setting("drafts generated for an accepted one", default=1.5)
    gpu_flops: float = setting("peak FLOPs per second of a GPU, dense bf16", default=989e12)
    train_use: float = setting("share of the peak in training", default=0.35)
    score_use: float = setting("share of the peak in scoring", default=0.3)
    rewrite_use: float = setting("share of the peak in generation", default=0.1)
    finetune_tokens: float = setting(
        "tokens of the safety finetuning, all epochs: two of 600,000 chats", default=8e8
    )
    answer_tokens: float = setting(
        "tokens that the search of an evaluation computes: 6,000 answers of 256 tokens, 16 candidates each",
        default=2.5e7,
    )
    answer_use: float = setting("share of the peak in the search", default=0.02)
    checkpoint_bytes: float = setting(
        "bytes per parameter of a checkpoint: fp32 weights and two moments of AdamW", default=12.0
    )
    checkpoints: float = setting("checkpoints that are kept", default=3)
    gpus: float = setting("GPUs, for the elapsed time", default=64.0)
    cores: float = setting("cores, for the elapsed time", default=512.0)
    gpu_hour: float = setting("price of a GPU for an hour", default=3.0)
    core_hour: float = setting("price of a core for an hour", default=0.04)
    tb_month: float = setting("price of a terabyte of storage for a month", default=23.0)

    def __post_init__(self) -> None:
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "float"}
        if low := [name for name, value in numbers.items() if value <= 0]:
            raise UserError(f"{low[0]}={numbers[low[0]]} must be above 0.")
        if min(self.tokens, default=0) <= 0:
            raise UserError(f"tokens={self.tokens} must have at least one number, and only positive ones.")


@dataclass(frozen=True, slots=True)
class Stage:
    """The work of a stage, and the bytes and files that it writes."""

    name: str
    core_seconds: float
    gpu_seconds: float
    bytes: float
    files: float


def stages(config: CostEstimate, tokens: float, text_bytes: float, row_bytes: float) -> Iterator[Stage]:
    """Return what each stage takes; `text_bytes` and `row_bytes` are stored bytes per token."""
    pages = tokens / config.tokens_per_page
    compare = pages * config.compare_seconds
    characters = tokens * config.characters_per_token
    files = characters / dataset.file_bytes(int(pages))
    written = tokens * config.rewritten_share
    drafted, texts = written * config.drafts, pages * config.rewritten_share

    def gpu(parameters: float, number: float, use: float, flops: int = 2) -> float:
        return flops * parameters * number / (config.gpu_flops * use)

    def score(number: float) -> float:
        return gpu(config.classifier_parameters, number, config.score_use)

    yield Stage("ingest", pages / config.pages_per_second + compare, 0, tokens * text_bytes, files)
    yield Stage("score", compare, score(tokens), tokens * text_bytes, files)
    yield Stage("report", characters / config.report_bytes_per_second, 0, 0, 0)
    # The source is read and the draft generated: about as many tokens each.
    generated = gpu(config.writer_parameters, 2 * drafted, config.rewrite_use)
    files = texts / dataset.llm_rows(0, int(texts))
    yield Stage("rewrite", 0, generated + score(drafted), written * text_bytes, files)
    packing, shards = tokens / config.packed_per_second, tokens / SHARD_TOKENS
    yield Stage("pack", packing + compare, 0, tokens * row_bytes, shards)
    model, kept = config.model_parameters, config.checkpoints
    checkpoints = kept * model * config.checkpoint_bytes
    yield Stage("pretrain", 0, gpu(model, tokens, config.train_use, flops=6), checkpoints, kept)
    finetuning = gpu(model, config.finetune_tokens, config.train_use, flops=6)
    yield Stage("finetune", 0, finetuning, checkpoints, kept)
    yield Stage("evaluate", 0, gpu(model, config.answer_tokens, config.answer_use), 0, 0)


def bytes_per_token(config: CostEstimate) -> tuple[float, float]:
    """Return the stored bytes per token of documents and of token rows."""
    with parquet.readable(*dataset.files(config.documents)):
        texts = dataset.rows_of(config.documents).to_table(columns=["text"]).column("text")
    with parquet.readable(*dataset.files(config.rows)):
        ids = dataset.rows_of(config.rows).to_table(columns=["input_ids"]).column("input_ids")
    text_tokens = pc.sum(pc.utf8_length(texts)).as_py() / config.characters_per_token
    row_tokens = pc.sum(pc.list_value_length(ids)).as_py()
    return _stored(config.documents) / text_tokens, _stored(config.rows) / row_tokens


def _stored(path: str) -> int:
    fs, _ = filesystem.find(path)
    return sum(fs.size(name) for name in dataset.files(path))


def run(config: CostEstimate) -> dict[str, Any]:
    """Print a table for each corpus."""
    text_bytes, row_bytes = bytes_per_token(config)
    print(f"bytes per token: {text_bytes:.2f} in documents, {row_bytes:.2f} in token rows")
    for tokens in config.tokens:
        documents = int(tokens / config.tokens_per_page)
        print(f"\n{tokens:.3g} tokens, {documents:.3g} documents\n")
        print("| stage | core-days | GPU-days | days | price | terabytes | price per month | files |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for stage in stages(config, tokens, text_bytes, row_bytes):
            price = (stage.core_seconds * config.core_hour + stage.gpu_seconds * config.gpu_hour) / _HOUR
            terabytes = stage.bytes / 1e12
            cores, gpus = stage.core_seconds / _DAY, stage.gpu_seconds / _DAY
            days = f"{cores:,.1f} | {gpus:,.1f} | {cores / config.cores + gpus / config.gpus:,.1f}"
            storage = f"{terabytes:,.1f} | {terabytes * config.tb_month:,.0f}"
            print(f"| {stage.name} | {days} | {price:,.0f} | {storage} | {stage.files:,.0f} |")
    return {}


if __name__ == "__main__":
    main(CostEstimate, run)
