"""Packing compared with the tokenizer alone, on one core: the cost of tags, rows and lineage.

The tokenizer alone encodes the same texts in one batch and returns their ids. Packing adds: no special tokens
from text, tags before words of unsafe texts (a third of them here), the training order, and rows of one
length with spans.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.train.settings import VOCABULARY, Row, TrainBenchmark
from safety_ray.core import tag
from safety_ray.corpus.seeds import load_seeds
from safety_ray.pack.encode import encode_rows
from safety_ray.pack.rows import pack_rows
from safety_ray.pack.selection import SELECTED, TRAIN
from safety_ray.pack.vocabulary import tables, train

_ROUNDS, _ROW = 5, 2048


def rows(config: TrainBenchmark) -> Iterator[Row]:
    """Yield the rows of the table."""
    texts = _texts(config)
    vocabulary = tables(train([texts], VOCABULARY, tag.TAG, _ROW), tag.TAG, "the tokenizer")
    table = _selected(texts)

    def bare() -> Any:
        encodings = vocabulary.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode() -> pa.Table:
        return encode_rows(table, vocabulary, seed=0, tag_rate=0.05)

    def encode_and_pack() -> pa.Table:
        return pack_rows(encode(), _ROW, vocabulary.end_id, 0)

    tokens = pc.sum(encode().column("tokens")).as_py()
    functions: dict[str, Callable[[], Any]] = {
        "the tokenizer alone": bare,
        "encoded, with tags": encode,
        "encoded and packed": encode_and_pack,
    }
    best = {name: (float("inf"), float("inf")) for name in functions}
    for _ in range(_ROUNDS):
        for name, function in functions.items():
            clock, cpu = time.perf_counter(), time.process_time()
            function()
            seconds = (time.perf_counter() - clock, time.process_time() - cpu)
            best[name] = (min(seconds[0], best[name][0]), min(seconds[1], best[name][1]))
    alone = best["the tokenizer alone"][1]
    for name, (clock, cpu) in best.items():
        against = (
            "" if name == "the tokenizer alone" else f"{alone / cpu:.2f} of the tokenizer alone (CPU time)"
        )
        note = f"{len(texts):,} texts, {tokens:,} tokens" if not against else "goal: 0.9"
        yield Row(f"packing: {name}", tokens / clock, tokens / cpu, against, note)


def _texts(config: TrainBenchmark) -> list[str]:
    if not config.texts:
        return [seed.text for seed in load_seeds()][: config.documents]
    with open(config.texts, encoding="utf-8") as file:
        return [json.loads(line)["text"] for line, _ in zip(file, range(config.documents), strict=False)]


def _selected(texts: list[str]) -> pa.Table:
    columns: dict[str, Any] = {
        **{name: [None] * len(texts) for name in SELECTED.names},
        "id": [f"d{n}" for n in range(len(texts))],
        "source_id": [f"d{n}" for n in range(len(texts))],
        "text": texts,
        "recipe": ["raw"] * len(texts),
        "unsafe": [n % 3 == 0 for n in range(len(texts))],
        "use": [TRAIN] * len(texts),
    }
    return pa.table(columns, schema=SELECTED)
