"""Pack: write the documents that a column `split` holds out, and find them for rewritten documents."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.scale import elsewhere
from benchmarks.scale.driver import measured
from safety_ray.core import dataset
from safety_ray.core.artifact import Artifact

_ROWS_PER_FILE = 1_000_000
_HELD_OUT = 20
"""One of so many documents is held out."""


def run(rows: int, folder: str) -> dict[str, float]:
    """Measure `rows` scored documents whose texts have 100 characters."""
    from safety_ray.pack.lookups import hold_out
    from safety_ray.pack.settings import PackConfig

    elsewhere.call(_write, rows, folder)
    out = Artifact(f"{folder}/out", {}, {})
    config = PackConfig(scored=f"{folder}/scored", output=out.path)
    with measured() as values:
        hashes = hold_out(config, out, None)
        assert hashes is not None
        size = ray.remote(lambda: hashes.get().nbytes).remote()
        values["store_mb"] = ray.get(size) / 2**20
    written = pq.read_metadata(f"{out.path}/heldout/heldout.parquet").num_rows
    assert written == min(rows // _HELD_OUT, config.heldout_max)
    return values


def _write(rows: int, folder: str) -> None:
    for number, first in enumerate(range(0, rows, _ROWS_PER_FILE)):
        table = _scored(first, min(first + _ROWS_PER_FILE, rows))
        dataset.write_table(table, f"{folder}/scored/{number:05}.parquet")


def _scored(first: int, end: int) -> pa.Table:
    numbers = np.arange(first, end)
    ids = pa.array(numbers + 10**18, pa.uint64()).cast(pa.string())
    split = pa.DictionaryArray.from_arrays((numbers % _HELD_OUT == 0).astype(np.int32), ["train", "heldout"])
    text = pa.DictionaryArray.from_arrays(np.zeros(len(numbers), np.int32), ["word " * 20])
    return pa.table(
        {
            "id": ids,
            "text": text.cast(pa.string()),
            "score": (numbers % 6).astype(np.int8),
            "split": split.cast(pa.string()),
        }
    )
