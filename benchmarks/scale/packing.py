"""Pack: plan the shards of encoded documents, which are simulated without ids and tokens."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmarks.scale import elsewhere
from benchmarks.scale.driver import measured
from safety_ray.core import dataset
from safety_ray.core.records import RAW, RECIPES

_ROWS_PER_FILE = 1_000_000
_RECIPES = [RAW, *RECIPES]


def run(rows: int, folder: str) -> dict[str, float]:
    """Measure `rows` documents of 500 tokens on average, all of which are trained on."""
    from jobs.pack import plan
    from safety_ray.pack.settings import PackConfig

    tokens = elsewhere.call(_write, rows, folder)
    late = {"recipe": "refuse", "start": 0.5}
    config = PackConfig(scored="scored", rewritten="rewritten", output="out", mixture={"late": late})
    with measured() as values:
        schedule, counts = plan(config, dataset.files(folder), tag_id=0)
    assert counts.tokens.total() == tokens
    assert len(counts.tokens) == schedule.shards == -(-tokens // 200_000_000)
    return values


def _write(rows: int, folder: str) -> int:
    """Write the encoded documents. Returns their number of tokens."""
    tokens = 0
    for number, first in enumerate(range(0, rows, _ROWS_PER_FILE)):
        documents = _encoded(number, min(_ROWS_PER_FILE, rows - first))
        tokens += int(documents.column("tokens").to_numpy().sum())
        dataset.write_table(documents, f"{folder}/{number:05}.parquet")
    return tokens


def _encoded(seed: int, rows: int) -> pa.Table:
    generator = np.random.default_rng(seed)
    recipes = pa.DictionaryArray.from_arrays(generator.integers(0, len(_RECIPES), rows, np.int32), _RECIPES)
    return pa.table(
        {
            "use": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["train"]).cast(pa.string()),
            "recipe": recipes.cast(pa.string()),
            "score": generator.integers(0, 6, rows, np.int8),
            "order": generator.integers(0, 2**64, rows, np.uint64),
            "tokens": generator.integers(1, 1000, rows),
            "tags": np.zeros(rows, np.int64),
        }
    )
