"""What a row is at each stage, and what every column means.

Columns accumulate: a stage adds its own and keeps those it does not know. The schemas here
name what a stage requires and what it adds; anything else a dataset carries travels along.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from safety_ray.core.errors import UserError

SCORES = 6
"""Levels of harm: 0 safe, 1 minimally, 2 slightly, 3 moderately, 4 clearly, 5 highly unsafe."""

RAW = "raw"
"""What token rows call web documents that were not rewritten."""
RECIPES = ("rephrase", "refuse", "moralize")
"""Names of the recipes in the column `recipe`; safety_ray/rewrite/recipes/ has a folder for each."""
DIALOGUE_RECIPES = ("refuse",)
"""Recipes whose texts are dialogues of the roles User and Assistant."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: pa.DataType
    meaning: str


_PROBS = pa.list_(pa.float32())

DOCUMENT = (
    Column("id", pa.string(), "unique in its dataset"),
    Column("text", pa.string(), "the document, not empty"),
)
FINEWEB = (
    Column("url", pa.string(), "where it was found"),
    Column("dump", pa.string(), "the crawl it came with"),
    Column("date", pa.string(), "when it was crawled, ISO 8601"),
    Column("language", pa.string(), "ISO 639-1 code"),
    Column("token_count", pa.int64(), "tokens as counted by whoever wrote the dataset"),
)
LABELLED = (
    *DOCUMENT,
    Column("label", pa.int8(), "the score a person or a judge gave, 0-5"),
)
SCORED = (
    *DOCUMENT,
    Column("score", pa.int8(), "predicted harm 0-5: the classifier's, the judge's, or the higher one"),
    Column("probs", _PROBS, "the classifier's probability of each score, of the chunk that decided"),
    Column("chunk_scores", pa.list_(pa.int8()), "the classifier's score of each chunk in order"),
)
ENSEMBLE = (
    Column("classifier_score", pa.int8(), "the classifier's score 0-5, where a judge scored as well"),
    Column("judge_score", pa.int8(), "the judge's score 0-5"),
    Column("judge_reason", pa.string(), "the judge's reason for it"),
    Column("judged_by", pa.string(), "engine and model of the judge"),
    Column("judge_reply", pa.string(), "what the judge wrote"),
)
"""Columns beside those of SCORED that a row has where a judge took part."""
REWRITTEN = (
    *DOCUMENT,
    Column("source_id", pa.string(), "id of the row it was made from"),
    Column("recipe", pa.string(), f"name of the recipe: {', '.join(RECIPES)}"),
    Column("style", pa.string(), "style of the recipe"),
    Column("source_score", pa.int8(), "score of the web document at the root"),
    Column("score", pa.int8(), "score of the rewritten text"),
    Column("probs", _PROBS, "probability of each score"),
)
SPAN = pa.struct(
    [
        ("id", pa.string()),  # the document's id
        ("source_id", pa.string()),  # the web document it was made from; its own id if none
        ("recipe", pa.string()),  # RAW or one of RECIPES
        ("start", pa.int32()),  # position of the first token in the row
        ("length", pa.int32()),  # tokens, end-of-text included
        ("unsafe", pa.bool_()),  # raw text whose score calls for harmfulness tags
    ]
)
TOKEN_ROW = (
    Column("row", pa.int64(), "position in training order"),
    Column("input_ids", pa.list_(pa.int32()), "token ids, the same number in every row"),
    Column("spans", pa.list_(SPAN), "which document each stretch of the row came from"),
)


LEARN = "learn"
"""Optional column of token rows, list<bool> as long as input_ids: which tokens are targets. Without it: all
that a span covers."""


def schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([(column.name, column.type) for column in columns])


def require(columns: tuple[Column, ...], found: list[str], where: str) -> None:
    """Raise UserError naming the first of `columns` that the dataset `where` lacks."""
    for column in columns:
        if column.name not in found:
            raise UserError(
                f"{where} has no column '{column.name}' ({column.meaning}); "
                f"it has {', '.join(found) or 'no columns'}."
            )


def stable_hash(*parts: object) -> int:
    """A 64-bit integer that depends on `parts` alone: not on process, worker or time."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
