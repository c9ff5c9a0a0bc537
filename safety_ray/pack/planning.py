"""The plan of the shards: the place of each document, and how many tokens each shard has.

A document's place is a function of its hash and the mixture, independent of blocks and workers. A shard
contains the documents of an interval of places, so the shards in order are the training order. Tasks sum up
batches of encoded documents; the driver only adds their sums, whose number does not depend on that of the
documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from safety_ray.core.errors import UserError
from safety_ray.pack.mixture import Order

TOKEN_COLUMNS = ["recipe", "score", "tokens"]
"""Columns of encoded documents that `token_sums` reads"""
COUNT_COLUMNS = ["use", "recipe", "score", "order", "tokens", "tags"]
"""Columns of encoded documents that `count_sums` reads"""
SHARD_TOKENS = 200_000_000
"""Highest number of tokens of a shard, roughly, if `shards` is not set: a task holds a shard in memory"""
MAX_TOKENS = 2**31 - 1  # limit of Arrow's offsets into a list column
_BYTES_PER_TOKEN = 4  # of English text, roughly
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The order of documents in training, and the interval of training in which they contain tags."""

    order: Order
    shards: int
    tag_id: int
    tags_start: float = 0.0
    tags_until: float = 1.0

    def place(self, documents: pa.Table) -> pa.Table:
        """Return encoded documents with their places in training, and with the column `shard`."""
        placed = self.order.place(documents)
        shard = shard_of(placed.column("order").to_numpy(), self.shards)
        return placed.append_column("shard", pa.array(shard, pa.int32()))

    def tagged(self, places: pa.ChunkedArray) -> Bools:
        """Return which of the places are in the interval in which documents contain tags."""
        share = places.to_numpy().astype(np.float64) / 2.0**64
        tagged: Bools = (self.tags_start <= share) & (share < self.tags_until)
        return tagged


@dataclass(slots=True)
class Counts:
    """Numbers of documents by use, of tokens to train on by shard and by recipe, and of tags."""

    uses: Counter[str] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    recipes: Counter[str] = field(default_factory=Counter)
    tags: int = 0


def shard_of(places: Hashes, shards: int) -> npt.NDArray[np.int32]:
    """Return floor(place · shards / 2^64) of each place, without numbers of more than 64 bits."""
    high, low, half = places >> np.uint64(32), places & np.uint64(0xFFFFFFFF), np.uint64(32)
    number = np.uint64(shards)
    return ((high * number + ((low * number) >> half)) >> half).astype(np.int32)


def number_of_shards(requested: int, tokens: float) -> int:
    """Return `requested`, or if it is 0 the number of shards for `tokens` tokens."""
    return requested or max(1, -(-int(tokens) // SHARD_TOKENS))


def check_number(requested: int, text_bytes: int) -> None:
    """Raise UserError if `requested` shards are too few for so many bytes of text, by a rough estimate.

    Whether a shard fits is known when all documents are encoded; this check is before the work.
    """
    tokens = text_bytes // _BYTES_PER_TOKEN
    if requested and tokens > requested * MAX_TOKENS:
        raise UserError(
            f"shards={requested}: {text_bytes:,} bytes of text are about {tokens:,} tokens, and a shard has "
            f"at most {MAX_TOKENS:,}; set shards=0 for one shard per {SHARD_TOKENS:,} tokens."
        )


def token_sums(batch: pa.Table) -> pa.Table:
    """Return the sums of the tokens of encoded documents, by recipe and score."""
    return batch.group_by(["recipe", "score"]).aggregate([("tokens", "sum")])


def add_tokens(sums: Iterable[pa.Table]) -> Counter[tuple[str, int | None]]:
    """Add the results of `token_sums`. Returns the number of tokens to train on, by recipe and score."""
    totals: Counter[tuple[str, int | None]] = Counter()
    for table in sums:
        for row in table.to_pylist():
            totals[row["recipe"], row["score"]] += row["tokens_sum"]
    return +totals


def count_sums(batch: pa.Table, schedule: Schedule) -> pa.Table:
    """Return documents, tokens and tags of encoded documents, by use, shard and recipe.

    A document that is not trained on is counted in the row of its use, without shard and recipe.
    """
    trained = pc.greater(batch.column("tokens"), 0)
    uses = batch.group_by("use").aggregate([([], "count_all")])
    rows = schedule.place(batch.filter(trained))
    tagged = pa.array(schedule.tagged(rows.column("order")))
    tags = pc.if_else(tagged, rows.column("tags"), 0)
    tokens = pc.subtract(pc.add(rows.column("tokens"), tags), rows.column("tags"))
    sums = pa.table(
        {"shard": rows.column("shard"), "recipe": rows.column("recipe"), "tokens": tokens, "tags": tags}
    )
    by_shard = sums.group_by(["shard", "recipe"]).aggregate([("tokens", "sum"), ("tags", "sum")])
    return pa.concat_tables([uses.cast(_USES), by_shard.cast(_SHARDS)], promote_options="default")


_USES = pa.schema([("use", pa.string()), ("count_all", pa.int64())])
_SHARDS = pa.schema(
    [("shard", pa.int32()), ("recipe", pa.string()), ("tokens_sum", pa.int64()), ("tags_sum", pa.int64())]
)


def add_counts(sums: Iterable[pa.Table]) -> Counts:
    """Add the results of `count_sums`. Returns the counts without entries that are 0."""
    counts = Counts()
    for table in sums:
        for row in table.to_pylist():
            if row["shard"] is None:
                counts.uses[row["use"]] += row["count_all"]
            else:
                counts.tokens[row["shard"]] += row["tokens_sum"]
                counts.recipes[row["recipe"]] += row["tokens_sum"]
                counts.tags += row["tags_sum"]
    counts.tokens, counts.recipes = +counts.tokens, +counts.recipes
    return counts


def first_rows(tokens: Mapping[int, int], row_length: int) -> tuple[dict[int, int], int]:
    """Return the position of each shard's first row in the order of all shards, and the number of rows."""
    positions: dict[int, int] = {}
    rows = 0
    for shard, count in sorted(tokens.items()):
        if count > MAX_TOKENS - row_length:
            raise UserError(
                f"shards: a shard has {count:,} tokens, more than {MAX_TOKENS:,}; set shards=0 for one shard "
                f"per {SHARD_TOKENS:,} tokens."
            )
        positions[shard] = rows
        rows += -(-count // row_length)
    return positions, rows
