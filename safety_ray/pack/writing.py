"""The last step of packing: token rows from token ids, shard by shard in the order of training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from safety_ray.core import dataset, exchange, progress, row_groups
from safety_ray.core.artifact import Artifact
from safety_ray.core.errors import UserError
from safety_ray.core.exchange import WHOLE_BLOCKS
from safety_ray.pack import mixture, planning, shards
from safety_ray.pack.heldout import HELDOUT
from safety_ray.pack.planning import Counts, Schedule
from safety_ray.pack.selection import UNSELECTED
from safety_ray.pack.settings import PackConfig
from safety_ray.pack.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ray.data import Dataset


def plan(config: PackConfig, encoded: list[str], tag_id: int) -> tuple[Schedule, Counts]:
    """Return the schedule of the encoded documents, and the sums of their numbers, which tasks compute."""
    tokens = dataset.stream(encoded, planning.TOKEN_COLUMNS).map_batches(planning.token_sums, **WHOLE_BLOCKS)
    order = mixture.Order(mixture.sources(config.mixture), planning.add_tokens(_tables(tokens)))
    number = planning.number_of_shards(config.shards, order.tokens)
    schedule = Schedule(order, number, tag_id, config.tags_start, config.tags_until)
    counts = dataset.stream(encoded, planning.COUNT_COLUMNS).map_batches(
        planning.count_sums, fn_kwargs={"schedule": schedule}, **WHOLE_BLOCKS
    )
    return schedule, planning.add_counts(_tables(counts))


def _tables(rows: Dataset) -> Iterator[pa.Table]:
    return iter(rows.iter_batches(batch_format="pyarrow", batch_size=None))


def write_rows(
    config: PackConfig,
    out: Artifact,
    encoded: list[str],
    tokenizer: Vocabulary,
    counts: Counts,
    schedule: Schedule,
) -> int:
    """Write the shards that do not exist yet. Returns the number of token rows in all shards."""
    if not counts.tokens:
        raise UserError(
            f"no rows are left to train on: raw_scores={config.raw_scores} and recipes={config.recipes} "
            f"exclude {counts.uses[UNSELECTED]:,} documents, and {counts.uses[HELDOUT]:,} are held out."
        )
    first_rows, rows = planning.first_rows(counts.tokens, config.row_length)
    missing = [shard for shard in first_rows if not shards.exists(shards.path_of(out.path, shard))]
    if missing:
        write = partial(
            shards.write_shards,
            path=out.path,
            row_length=config.row_length,
            end_id=tokenizer.end_id,
            first_rows=first_rows,
            tag_id=tokenizer.tag_id,
            learn_tags=config.learn_tags,
            learn_unsafe=config.learn_unsafe,
        )
        counter = progress.RowCounter(out.sub("data"))
        with progress.watch("pack", rows, counter):
            documents = dataset.stream(encoded, shards.COLUMNS).map_batches(
                shards.only_shards,
                fn_kwargs={"shards": missing, "schedule": schedule},
                **WHOLE_BLOCKS,
            )
            exchange.by_key(documents, "shard", schedule.shards, write, inputs=len(encoded)).materialize()
    written = row_groups.write_index(out.path)
    if written != rows:
        raise RuntimeError(f"{out.path}/data has {written} rows instead of {rows}.")
    return rows
