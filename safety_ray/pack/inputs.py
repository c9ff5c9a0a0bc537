"""What `pack` reads, and what is wrong with it, known before an output folder is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from safety_ray.core import artifact, dataset, threshold
from safety_ray.core.artifact import Artifact
from safety_ray.core.records import REWRITTEN, SCORED, require
from safety_ray.pack import selection, shards, vocabulary
from safety_ray.pack.selection import CHUNKS, ROOT, SPLIT
from safety_ray.pack.settings import PackConfig
from safety_ray.pack.vocabulary import Vocabulary

WEB = tuple(c for c in SCORED if c.name in ("id", "text", "score"))
MADE = tuple(c for c in REWRITTEN if c.name in ("id", "text", "source_id", "recipe"))


def with_threshold(config: PackConfig) -> PackConfig:
    """`config` with the score that its audit chose, where it names one."""
    found = config.thresholds_from
    return replace(config, tag_from=threshold.audited(found)) if found else config


def paths(config: PackConfig) -> dict[str, str]:
    """The record's `inputs`: what is read. UserError where it does not fit."""
    found = {"scored": config.scored}
    chunks = tuple(c for c in SCORED if c.name == CHUNKS and config.tag_scope == "chunk")
    require(WEB + chunks, dataset.columns(config.scored), f"'{config.scored}'")
    if config.rewritten:
        found["rewritten"] = config.rewritten
        if has_rewritten(config):
            require(MADE, dataset.columns(config.rewritten), f"'{config.rewritten}'")
    if config.thresholds_from:
        found["thresholds_from"] = config.thresholds_from
    if config.tokenizer:
        if Path(config.tokenizer).is_dir():
            found["tokenizer"] = config.tokenizer
        if not shards.exists(f"{config.output}/record.json"):
            tables(config, vocabulary.open_existing(config.tokenizer, config.tag))
    return found


def has_rewritten(config: PackConfig) -> bool:
    """Whether there are rewritten rows; a finished stage may have had nothing to rewrite."""
    record = artifact.read_record(config.rewritten) if config.rewritten else None
    return bool(config.rewritten) and (record is None or record["rows_out"] > 0)


def hold_out(config: PackConfig, out: Artifact) -> frozenset[str] | None:
    """Write the web documents that are held out; returns their ids where `split` names them."""
    path, names = out.sub("heldout", "heldout.parquet"), dataset.columns(config.scored)
    if not shards.exists(path):
        with fsspec.open(dataset.files(config.scored)[0]) as file:
            kept = [pq.read_schema(file).remove_metadata().empty_table().select(names)]
        if SPLIT in names or config.heldout_share > 0:
            found = dataset.read(config.scored, WEB).map_batches(
                selection.only_held_out,
                fn_kwargs={"seed": config.seed, "share": config.heldout_share},
                batch_format="pyarrow",
                batch_size=None,
            )
            kept += [b for b in found.iter_batches(batch_format="pyarrow", batch_size=None) if len(b)]
        shards.write_whole(pa.concat_tables(kept, promote_options="permissive").sort_by("id"), path)
    if SPLIT not in names:
        return None
    with fsspec.open(path) as file:
        return frozenset(pq.read_table(file, columns=["id"]).column("id").to_pylist())


def roots(config: PackConfig) -> dict[str, str] | None:
    """The web document behind each rewritten row; None where there are none or the rows name it."""
    if not has_rewritten(config) or ROOT in dataset.columns(config.rewritten):
        return None
    ids = dataset.table(config.rewritten, ["id", "source_id"])
    return selection.trace_roots(ids.column("id"), ids.column("source_id"), f"'{config.rewritten}'")


def tables(config: PackConfig, tokenizer: Any) -> Vocabulary:
    """What `pack` needs of `tokenizer`; UserError where it cannot hold the tag."""
    where = f"the tokenizer '{config.tokenizer}'" if config.tokenizer else "the trained tokenizer"
    tagged = config.tag_rate > 0 and any(score >= config.tag_from for score in config.raw_scores)
    return vocabulary.tables(tokenizer, config.tag, where, tagged)
