"""Token rows are bit-identical to those of earlier versions, for the same documents and seed."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safety_ray.core import tag
from safety_ray.core.chunks import Chunk
from safety_ray.pack.encode import encode_rows
from safety_ray.pack.rows import pack_rows
from safety_ray.pack.selection import SELECTED
from safety_ray.pack.vocabulary import Vocabulary, tables

STORED = "f66fd48cea01e27f4af790ab71eb0d26a76b79a333b127939109ed42eeb1ae33"
"""SHA-256 of the rows below, computed before tag placement moved out of this package."""
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("a", "n"), ("Ġ", "b"), ("Ġ", "Ġ"), ("Ã", "©")]
TEXTS = [
    "the river,  and\n\nthe boat the bank",
    "  café and the \u6771\u4eac bread\u3000the end " * 3,
    f"text that spells {tag.TAG} and {tag.END_OF_TEXT} is text",
    "User: how?\nAssistant: no, and this is the reason.",
    "one",
    "hate hate hate hate calm calm calm calm " * 5,
]


@pytest.fixture(scope="module")
def merged_bytes() -> Vocabulary:
    """A byte-level BPE with fixed merges, so that no training algorithm affects the ids."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    bpe = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=MERGES))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=tag.END_OF_TEXT)
    tag.add_tag(tokenizer)
    return tables(tokenizer, tag.TAG, "the tokenizer")


def thirds(text: str, scores: list[int]) -> list[Chunk]:
    return [{"end": -(-len(text) * (n + 1) // 3), "score": score} for n, score in enumerate(scores)]


def selected() -> pa.Table:
    recipes = ("raw", "raw", "raw", "refuse")
    rows: list[dict[str, Any]] = [
        {
            "id": f"d{n}", "source_id": f"s{n}", "text": TEXTS[n % len(TEXTS)], "recipe": recipes[n % 4],
            "unsafe": n % 4 < 2, "use": "train", "score": n % 6,
            "scored_chunks": thirds(TEXTS[n % len(TEXTS)], [0, 5, 1]) if n % 5 == 0 else None,
        }
        for n in range(60)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SELECTED)


def test_token_rows_match_stored_digest(merged_bytes: Vocabulary) -> None:
    encoded = encode_rows(selected(), merged_bytes, seed=11, tag_rate=0.3, tag_from=3)
    rows = pack_rows(
        encoded, 64, merged_bytes.end_id, 0, tag_id=merged_bytes.tag_id, learn_tags=False
    ).to_pydict()
    assert sum(encoded.column("tags").to_pylist()) > 50
    assert hashlib.sha256(repr(rows).encode()).hexdigest() == STORED
