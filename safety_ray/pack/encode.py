"""Encode selected documents: tags in unsafe text, personas in refusals, and no control token from any text.

Every document begins with the token that its tokenizer puts before a text, if there is one, and ends with
end-of-text. Its place in the training order is a hash of the seed and its id.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from safety_ray.core import tag
from safety_ray.core.chunks import CHUNKS, CHUNKS_TYPE
from safety_ray.core.dataset import REASON
from safety_ray.core.records import DIALOGUE_RECIPES, stable_hash
from safety_ray.core.tag_placement import tag_positions, word_starts, words_in_chunks
from safety_ray.core.worker_deaths import Watch
from safety_ray.pack.personas import with_personas
from safety_ray.pack.selection import SELECTED, TRAIN
from safety_ray.pack.vocabulary import Vocabulary

ENCODED = pa.schema(
    [
        *SELECTED,  # text is kept only in rejected rows
        ("order", pa.uint64()),  # the document's hash, from which its place in training is computed
        ("input_ids", pa.list_(pa.int32())),  # including tags and end-of-text
        ("tokens", pa.int64()),
        ("tags", pa.int64()),
    ]
)
_TAGS_NEED_BYTES = "its tokens do not spell its text byte by byte, so words cannot be located in them"
_FORGED = "the tokenizer encodes part of its text as a control token"


def encode_watched(rows: pa.Table, watch: Watch, **settings: Any) -> pa.Table:
    """Call `encode_rows`; a row whose encoding ends the worker process is rejected."""

    def encode(rows: pa.Table) -> pa.Table:
        return encode_rows(rows, **settings)

    return watch.call(encode, rows, lambda row, reason: encode(_with_reason(row, reason)))


def _with_reason(rows: pa.Table, reason: str) -> pa.Table:
    """Return rows with `reason` as the reason of their rejection, for which they are not encoded."""
    place = rows.schema.get_field_index(REASON)
    return rows.set_column(place, REASON, pa.array([reason] * len(rows), pa.string()))


def encode_rows(
    rows: pa.Table,
    vocabulary: Vocabulary,
    *,
    seed: int,
    tag_rate: float,
    tag_from: int = 0,
    at_beginning: bool = False,
) -> pa.Table:
    """Return rows of SELECTED as rows of ENCODED; only those with use "train" receive ids.

    If a row has `scored_chunks`, only chunks of score `tag_from` and above contain tags. With `at_beginning`,
    an unsafe document has one tag, before its first word, unless `tag_rate` is 0. A document is
    rejected, with its reason, if its ids contain a control token, or if it is unsafe and its words cannot be
    located.
    """
    ids, uses, reasons = (rows.column(c).to_pylist() for c in ("id", "use", REASON))
    chunks = rows.column(CHUNKS).to_pylist()
    unsafe, recipes = rows.column("unsafe").to_pylist(), rows.column("recipe").to_pylist()
    texts = [
        with_personas(text, seed, id) if recipe in DIALOGUE_RECIPES and text else text
        for text, recipe, id in zip(rows.column("text").to_pylist(), recipes, ids, strict=True)
    ]
    trained = [n for n, use in enumerate(uses) if use == TRAIN and reasons[n] is None]
    input_ids: list[npt.NDArray[np.int64] | None] = [None] * len(rows)
    tags = [0] * len(rows)
    # One more entry than there are ids: "clip" maps ids beyond the table to the last one.
    control = np.zeros(max(vocabulary.size, *vocabulary.control_ids) + 2, np.bool_)
    control[vocabulary.control_ids] = True
    start, end = np.array(vocabulary.start_ids, np.int64), np.array([vocabulary.end_id])
    batch = [_normalized(vocabulary, texts[n]) if unsafe[n] else texts[n] for n in trained]
    for n, text, encoded in zip(trained, batch, tag.encode(vocabulary, batch), strict=True):
        tokens = np.array(encoded, np.int64)
        if control.take(tokens, mode="clip").any():
            reasons[n] = _FORGED
            continue
        if unsafe[n] and tag_rate > 0:
            assert vocabulary.byte_lengths is not None  # checked by vocabulary.tables
            token_ends = np.cumsum(vocabulary.byte_lengths[tokens])
            if (token_ends[-1] if len(token_ends) else 0) != len(text.encode()):
                reasons[n] = _TAGS_NEED_BYTES
                continue
            allowed = words_in_chunks(text, chunks[n], tag_from) if chunks[n] else None
            starts = word_starts(text, token_ends)
            positions = starts[:1] if at_beginning else tag_positions(starts, tag_rate, seed, ids[n], allowed)
            tokens, tags[n] = np.insert(tokens, positions, vocabulary.tag_id), len(positions)
        input_ids[n] = np.concatenate([start, tokens, end])
    columns = {name: rows.column(name) for name in SELECTED.names} | {
        "text": [None if reason is None else text for text, reason in zip(texts, reasons, strict=True)],
        REASON: reasons,
        CHUNKS: pa.nulls(len(rows), CHUNKS_TYPE),
        "order": [stable_hash(seed, "order", id) for id in ids],
        "input_ids": [None if tokens is None else tokens.astype(np.int32) for tokens in input_ids],
        "tokens": [0 if tokens is None else len(tokens) for tokens in input_ids],
        "tags": tags,
    }
    return pa.table(columns, schema=ENCODED)


def _normalized(vocabulary: Vocabulary, text: str) -> str:
    """Return the text that its tokens spell; some tokenizers compose characters first (Qwen: NFC)."""
    normalizer = vocabulary.backend_tokenizer.normalizer
    return text if normalizer is None else str(normalizer.normalize_str(text))
