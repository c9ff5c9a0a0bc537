"""From selected documents to token ids: text that cannot forge a special token, tags where they belong,
varied persons in place of a refusal's two roles.

Every document ends with end-of-text. Its place in the training order is a hash of seed and id.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from safety_ray.core import tag
from safety_ray.core.dataset import REASON
from safety_ray.core.records import DIALOGUE_RECIPES, stable_hash
from safety_ray.core.tag_placement import tag_positions, word_starts, words_in_chunks
from safety_ray.pack.personas import with_persons
from safety_ray.pack.selection import CHUNKS, SELECTED, TRAIN
from safety_ray.pack.vocabulary import Vocabulary

ENCODED = pa.schema(
    [
        *SELECTED,  # text stays only in rows that are rejected
        ("order", pa.uint64()),  # the document's hash, of which its place in the training is made
        ("input_ids", pa.list_(pa.int32())),  # tags and end-of-text included
        ("tokens", pa.int64()),
        ("tags", pa.int64()),
    ]
)
_TAGS_NEED_BYTES = "its tokens do not spell its text byte by byte, so words cannot be found in them"
_FORGED = "the tokenizer makes a special token of its text"


def encode_rows(
    rows: pa.Table, vocabulary: Vocabulary, *, seed: int, tag_rate: float, tag_from: int = 0
) -> pa.Table:
    """Rows of SELECTED as rows of ENCODED; only those to train on get ids.

    Where a row has `chunk_scores`, tags stand in chunks of score `tag_from` and above alone.

    A document in whose ids a special token appears, or, if unsafe, whose words cannot be found, is
    rejected with its reason.
    """
    names, uses, reasons = (rows.column(c).to_pylist() for c in ("id", "use", REASON))
    chunks = rows.column(CHUNKS).to_pylist()
    unsafe, recipes = rows.column("unsafe").to_pylist(), rows.column("recipe").to_pylist()
    texts = [
        with_persons(text, seed, name) if recipe in DIALOGUE_RECIPES and text else text
        for text, recipe, name in zip(rows.column("text").to_pylist(), recipes, names, strict=True)
    ]
    chosen = [k for k, use in enumerate(uses) if use == TRAIN and reasons[k] is None]
    ids: list[npt.NDArray[np.int64] | None] = [None] * len(rows)
    tags = [0] * len(rows)
    special = np.zeros(max(vocabulary.size, *vocabulary.special_ids) + 2, np.bool_)  # the last: ids above
    special[vocabulary.special_ids] = True
    batch = [_normal(vocabulary, texts[k]) if unsafe[k] else texts[k] for k in chosen]
    for k, text, plain in zip(chosen, batch, tag.encode(vocabulary, batch), strict=True):
        tokens = np.array(plain, np.int64)
        if special.take(tokens, mode="clip").any():
            reasons[k] = _FORGED
            continue
        if unsafe[k] and tag_rate > 0:
            assert vocabulary.byte_lengths is not None  # seen to by vocabulary.tables
            ends = np.cumsum(vocabulary.byte_lengths[tokens])
            if (ends[-1] if len(ends) else 0) != len(text.encode()):
                reasons[k] = _TAGS_NEED_BYTES
                continue
            allowed = words_in_chunks(text, chunks[k], tag_from) if chunks[k] else None
            places = tag_positions(word_starts(text, ends), tag_rate, seed, names[k], allowed)
            tokens, tags[k] = np.insert(tokens, places, vocabulary.tag_id), len(places)
        ids[k] = np.append(tokens, vocabulary.end_id)
    encoded = {name: rows.column(name) for name in SELECTED.names} | {
        "text": [None if reason is None else text for text, reason in zip(texts, reasons, strict=True)],
        REASON: reasons,
        CHUNKS: pa.nulls(len(rows), pa.list_(pa.int8())),
        "order": [stable_hash(seed, "order", name) for name in names],
        "input_ids": [None if tokens is None else tokens.astype(np.int32) for tokens in ids],
        "tokens": [0 if tokens is None else len(tokens) for tokens in ids],
        "tags": tags,
    }
    return pa.table(encoded, schema=ENCODED)


def _normal(vocabulary: Vocabulary, text: str) -> str:
    """The text as the tokens spell it: some vocabularies compose characters first (Qwen: NFC)."""
    normalizer = vocabulary.backend_tokenizer.normalizer
    return text if normalizer is None else str(normalizer.normalize_str(text))
