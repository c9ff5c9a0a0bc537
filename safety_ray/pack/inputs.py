"""Inputs of the pack job, checked before the output folder is created."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq

from safety_ray.core import artifact, dataset, parquet, partition, threshold
from safety_ray.core.chunks import CHUNKS
from safety_ray.core.records import REWRITTEN, SCORED, SCORED_TEXT
from safety_ray.pack import planning, vocabulary
from safety_ray.pack.settings import PackConfig
from safety_ray.pack.vocabulary import Vocabulary

REWRITTEN_COLUMNS = tuple(c for c in REWRITTEN if c.name in ("id", "text", "source_id", "recipe"))
_THREADS = 16
_FOOTERS = 256


def with_threshold(config: PackConfig) -> PackConfig:
    """Return `config` with the threshold of the audit `thresholds_from`, if it is set."""
    audit = config.thresholds_from
    return replace(config, tag_from=threshold.audited(audit)) if audit else config


def paths(config: PackConfig) -> dict[str, str]:
    """Return the inputs of the record, by name. Raises UserError if an input is missing or invalid."""
    inputs = {"scored": config.scored}
    chunks = tuple(c for c in SCORED if c.name == CHUNKS and config.tag_scope == "chunk")
    dataset.check(config.scored, SCORED_TEXT + chunks)
    if config.rewritten:
        inputs["rewritten"] = config.rewritten
        if has_rewritten(config):
            dataset.check(partition.whole(config.rewritten), REWRITTEN_COLUMNS)
    if config.thresholds_from:
        inputs["thresholds_from"] = config.thresholds_from
    finished = artifact.is_finished(config.output)
    if config.shards and not finished:
        datasets = [config.scored, *[config.rewritten] * has_rewritten(config)]
        planning.check_number(config.shards, sum(_text_bytes(partition.whole(d)) for d in datasets))
    if config.tokenizer:
        if Path(config.tokenizer).is_dir():
            inputs["tokenizer"] = config.tokenizer
        if not finished:
            tables(config, vocabulary.open_existing(config.tokenizer, config.tag))
    return inputs


def has_rewritten(config: PackConfig) -> bool:
    """Return whether there are rewritten rows; a finished rewrite job may have had nothing to rewrite."""
    record = artifact.read_record(config.rewritten) if config.rewritten else None
    return bool(config.rewritten) and (record is None or record["rows_out"] > 0)


def reads_rewritten(config: PackConfig) -> bool:
    """Return whether this job has rewritten rows to read; a partition may have none of their files."""
    return has_rewritten(config) and bool(dataset.files(config.rewritten))


def _text_bytes(path: str) -> int:
    """Return the size of the texts of a dataset, from the Parquet footers of a sample of its files."""

    def size(name: str) -> int:
        with fsspec.open(name) as file, parquet.readable(name):
            meta = pq.read_metadata(file)
        chunks = (
            meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns)
        )
        return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == "text")

    files = dataset.files(path)
    sample = files[:: max(1, -(-len(files) // _FOOTERS))]
    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(pool.map(size, sample)) * len(files) // max(1, len(sample))


def tables(config: PackConfig, tokenizer: Any) -> Vocabulary:
    """Return the tables of `tokenizer`. Raises UserError if tags cannot be inserted into its tokens."""
    where = f"the tokenizer '{config.tokenizer}'" if config.tokenizer else "the trained tokenizer"
    return vocabulary.tables(tokenizer, config.tag, where, config.inserts_tags)
