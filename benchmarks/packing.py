"""What packing costs beside the tokenizer alone: tokens a second of CPU time, on one core.

    python -m benchmarks.packing texts=web.jsonl          # rows with a text

The bare tokenizer encodes the same texts in one batch. Packing adds: no forged special token, tags before
words of unsafe texts (a third of them here), the training order, rows of one length with their spans.
Both take turns; the fastest turn counts.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from safety_ray import tag
from safety_ray.config import setting
from safety_ray.job import main
from safety_ray.pack.encode import encode_rows
from safety_ray.pack.rows import pack_rows
from safety_ray.pack.selection import SELECTED, TRAIN
from safety_ray.pack.vocabulary import tables, train


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingBenchmark:
    """Measures packing on one core."""

    texts: str = setting("JSONL file whose rows have a text")
    documents: int = setting("rows of it to take", default=500)
    vocab_size: int = setting("entries of the tokenizer, which is trained on the texts", default=8192)
    rounds: int = setting("turns of each", default=3)


def run(config: PackingBenchmark) -> dict[str, Any]:
    with open(config.texts, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(config.documents), strict=False)]
    words = tables(train([texts], config.vocab_size, tag.TAG, 2048), tag.TAG, "the tokenizer")
    columns = {
        **{name: [None] * len(texts) for name in SELECTED.names},
        "id": [f"d{n}" for n in range(len(texts))],
        "source_id": [f"d{n}" for n in range(len(texts))],
        "text": texts,
        "recipe": ["raw"] * len(texts),
        "unsafe": [n % 3 == 0 for n in range(len(texts))],
        "use": [TRAIN] * len(texts),
    }
    rows = pa.table(columns, schema=SELECTED)
    best = dict.fromkeys(("tokenizer", "encode", "encode and pack"), float("inf"))
    tokens = 0
    for _ in range(config.rounds):
        begun = time.process_time()
        words.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        bare = time.process_time()
        encoded = encode_rows(rows, words, seed=0, tag_rate=0.05)
        done = time.process_time()
        pack_rows(encoded, 2048, words.end_id, 0)
        whole = time.process_time()
        tokens = pc.sum(encoded.column("tokens")).as_py()
        for name, seconds in (
            ("tokenizer", bare - begun),
            ("encode", done - bare),
            ("encode and pack", whole - bare),
        ):
            best[name] = min(best[name], seconds)
    print(f"{len(texts):,} documents, {tokens:,} tokens")
    print("                     tokens/s of CPU time  beside the tokenizer")
    for name, seconds in best.items():
        print(f"{name:<20} {tokens / seconds:21,.0f}  {best['tokenizer'] / seconds:20.2f}")
    return {}


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    main(PackingBenchmark, run)
