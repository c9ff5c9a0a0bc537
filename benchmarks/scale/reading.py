"""Training: the first batch of token rows, and one of the second epoch, of one of eight workers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.scale import elsewhere
from benchmarks.scale.driver import measured

_LENGTH, _BATCH, _WORLD = 2048, 1024, 8


def run(rows: int, folder: str) -> dict[str, float]:
    """Measure one shard of `rows` token rows of 2,048 tokens: `driver_mb` is the memory of the worker."""
    from safety_ray.train.data import TokenRows

    elsewhere.call(_write, rows, folder)
    with measured() as values:
        data = TokenRows(folder)
        for step in (0, rows // _BATCH + 1):
            batch = data.batch(step, _BATCH, seed=0, rank=1, world=_WORLD)
            assert batch.ids.shape == (_BATCH // _WORLD, _LENGTH)
    return values


def _write(rows: int, folder: str) -> None:
    from safety_ray.core import row_groups
    from safety_ray.pack.rows import pack_rows
    from safety_ray.pack.shards import path_of

    generator, documents = np.random.default_rng(0), 3 * rows
    offsets = np.linspace(0, rows * _LENGTH, documents + 1).astype(np.int32)
    ids = pa.array(generator.integers(0, 49_000, rows * _LENGTH, np.int32))
    table = pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(pa.array(offsets), ids),
            "order": pa.array(np.arange(documents), pa.uint64()),
            "id": pa.array(np.arange(documents) + 10**18).cast(pa.string()),
            "source_id": pa.array(np.arange(documents) + 10**18).cast(pa.string()),
            "recipe": pa.array(["raw"] * documents),
            "unsafe": pa.array(generator.integers(0, 2, documents).astype(bool)),
        }
    )
    row_groups.write_rows(pack_rows(table, _LENGTH, 0, 0), path_of(folder, 0))
    row_groups.write_index(folder)
    record = {"row_length": _LENGTH, "vocab_size": 49_000, "tag": "<t>", "tag_id": 1, "fingerprint": ""}
    Path(folder, "record.json").write_text(json.dumps(record))
