"""Inputs of the pack job, checked before the output folder is created."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.core import artifact, dataset, threshold
from safety_ray.core.artifact import Artifact
from safety_ray.core.records import REWRITTEN, SCORED
from safety_ray.pack import selection, shards, vocabulary
from safety_ray.pack.selection import CHUNKS, ROOT, SPLIT
from safety_ray.pack.settings import PackConfig
from safety_ray.pack.vocabulary import Vocabulary

SCORED_COLUMNS = tuple(c for c in SCORED if c.name in ("id", "text", "score"))
REWRITTEN_COLUMNS = tuple(c for c in REWRITTEN if c.name in ("id", "text", "source_id", "recipe"))


def with_threshold(config: PackConfig) -> PackConfig:
    """Return `config` with the threshold of the audit `thresholds_from`, if it is set."""
    audit = config.thresholds_from
    return replace(config, tag_from=threshold.audited(audit)) if audit else config


def paths(config: PackConfig) -> dict[str, str]:
    """Return the inputs of the record, by name. Raises UserError if an input is missing or invalid."""
    inputs = {"scored": config.scored}
    chunks = tuple(c for c in SCORED if c.name == CHUNKS and config.tag_scope == "chunk")
    dataset.check(config.scored, SCORED_COLUMNS + chunks)
    if config.rewritten:
        inputs["rewritten"] = config.rewritten
        if has_rewritten(config):
            dataset.check(config.rewritten, REWRITTEN_COLUMNS)
    if config.thresholds_from:
        inputs["thresholds_from"] = config.thresholds_from
    if config.tokenizer:
        if Path(config.tokenizer).is_dir():
            inputs["tokenizer"] = config.tokenizer
        if not shards.exists(f"{config.output}/record.json"):
            tables(config, vocabulary.open_existing(config.tokenizer, config.tag))
    return inputs


def has_rewritten(config: PackConfig) -> bool:
    """Return whether there are rewritten rows; a finished rewrite job may have had nothing to rewrite."""
    record = artifact.read_record(config.rewritten) if config.rewritten else None
    return bool(config.rewritten) and (record is None or record["rows_out"] > 0)


def hold_out(config: PackConfig, out: Artifact) -> frozenset[str] | None:
    """Write the held-out web documents. Returns their ids if the column `split` defines them, else None."""
    path, names = out.sub("heldout", "heldout.parquet"), dataset.columns(config.scored)
    if not shards.exists(path):
        with fsspec.open(dataset.files(config.scored)[0]) as file:
            tables = [pq.read_schema(file).remove_metadata().empty_table().select(names)]
        if SPLIT in names or config.heldout_share > 0:
            heldout = dataset.read(config.scored, SCORED_COLUMNS).map_batches(
                selection.only_held_out,
                fn_kwargs={"seed": config.seed, "share": config.heldout_share},
                batch_format="pyarrow",
                batch_size=None,
            )
            batches = heldout.iter_batches(batch_format="pyarrow", batch_size=None)
            tables += [batch for batch in batches if len(batch)]
        shards.write_atomically(pa.concat_tables(tables, promote_options="permissive").sort_by("id"), path)
    if SPLIT not in names:
        return None
    with fsspec.open(path) as file:
        return frozenset(pq.read_table(file, columns=["id"], partitioning=None).column("id").to_pylist())


def roots(config: PackConfig) -> dict[str, str] | None:
    """Return the root of each rewritten row, a web document.

    Returns None if there are no rewritten rows, or if their column `root_id` contains the roots.
    """
    if not has_rewritten(config) or ROOT in dataset.columns(config.rewritten):
        return None
    ids = dataset.table(config.rewritten, ["id", "source_id"])
    return selection.trace_roots(ids.column("id"), ids.column("source_id"), f"'{config.rewritten}'")


def tables(config: PackConfig, tokenizer: Any) -> Vocabulary:
    """Return the tables of `tokenizer`. Raises UserError if tags cannot be inserted into its tokens."""
    where = f"the tokenizer '{config.tokenizer}'" if config.tokenizer else "the trained tokenizer"
    tagged = config.tag_rate > 0 and any(score >= config.tag_from for score in config.raw_scores)
    return vocabulary.tables(tokenizer, config.tag, where, tagged)
