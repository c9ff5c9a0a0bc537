"""Columns of the rows of each stage, with their meaning.

Columns accumulate: a stage adds its own and keeps those that it does not know. The tuples here name the
columns that a stage requires and adds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from safety_ray.core.chunks import CHUNKS, CHUNKS_TYPE
from safety_ray.core.errors import UserError
from safety_ray.core.terms import RAW as RAW
from safety_ray.core.terms import RECIPES as RECIPES
from safety_ray.core.terms import SCORES as SCORES

DIALOGUE_RECIPES = ("refuse",)
"""Recipes whose texts are dialogues of the roles User and Assistant."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a dataset."""

    name: str
    type: pa.DataType
    meaning: str


_PROBS = pa.list_(pa.float32())

DOCUMENT = (
    Column("id", pa.string(), "unique in its dataset"),
    Column("text", pa.string(), "text of the document, not empty"),
)
FINEWEB = (
    Column("url", pa.string(), "address of the page"),
    Column("dump", pa.string(), "name of the crawl"),
    Column("date", pa.string(), "time of the crawl, ISO 8601"),
    Column("language", pa.string(), "ISO 639-1 code"),
    Column("token_count", pa.int64(), "number of tokens, as counted by the dataset's authors"),
)
LABELLED = (
    *DOCUMENT,
    Column("label", pa.int8(), "score 0-5 given by a person or a judge"),
)
SCORED_TEXT = (
    *DOCUMENT,
    Column("score", pa.int8(), "predicted harm 0-5: of the classifier, of the judge, or the higher one"),
)
"""The columns that the stages after scoring need."""
SCORED = (
    *SCORED_TEXT,
    Column("probs", _PROBS, "the classifier's probability of each score, for the chunk that decides"),
    Column(
        CHUNKS,
        CHUNKS_TYPE,
        "parts that the classifier reads, in order: where each ends, in characters, and its score",
    ),
)
ENSEMBLE = (
    Column("classifier_score", pa.int8(), "the classifier's score 0-5, if a judge scored as well"),
    Column("judge_score", pa.int8(), "the judge's score 0-5"),
    Column("judge_reason", pa.string(), "the judge's reason for its score"),
    Column("judged_by", pa.string(), "engine and model of the judge"),
    Column("judge_shortened", pa.bool_(), "whether the judge read only a part of a long text"),
    Column("judge_reply", pa.string(), "the judge's reply"),
)
"""Columns in addition to those of SCORED if a judge scored the row."""
REWRITTEN = (
    *DOCUMENT,
    Column("source_id", pa.string(), "id of the row that it was made from"),
    Column("recipe", pa.string(), f"name of the recipe: {', '.join(RECIPES)}"),
    Column("style", pa.string(), "the sampled style of the recipe"),
    Column("source_score", pa.int8(), "score of the original web document"),
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
        ("unsafe", pa.bool_()),  # raw text whose score requires harmfulness tags
    ]
)
TOKEN_ROW = (
    Column("row", pa.int64(), "position in training order"),
    Column("input_ids", pa.list_(pa.int32()), "token ids, the same number in every row"),
    Column("spans", pa.list_(SPAN), "the document of each span of the row"),
)


LEARN = "learn"
"""Optional column of token rows, list<bool> of the length of input_ids: which tokens are targets. Without
it, all tokens of spans are."""


def schema(columns: tuple[Column, ...]) -> pa.Schema:
    """Return the Arrow schema of `columns`."""
    return pa.schema([(column.name, column.type) for column in columns])


def require(columns: tuple[Column, ...], names: list[str], where: str) -> None:
    """Raise UserError with the first of `columns` that the dataset `where`, which has `names`, lacks."""
    for column in columns:
        if column.name not in names:
            raise UserError(
                f"{where} has no column '{column.name}' ({column.meaning}); "
                f"it has {', '.join(names) or 'no columns'}."
            )


def without(batch: pa.Table, *names: str) -> pa.Table:
    """Return `batch` without those of the columns `names` that it has."""
    return batch.drop_columns([name for name in names if name in batch.column_names])


def valid_text(text: str) -> str:
    """Return `text` with half a surrogate pair replaced, which JSON may have, and UTF-8 and Arrow cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def stable_hash(*parts: object) -> int:
    """Return a 64-bit hash of `parts` that is the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
