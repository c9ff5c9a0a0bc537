"""A resumed stage: load the ids that are written, half of all, and skip their rows."""

from __future__ import annotations

import pyarrow as pa
import ray

from benchmarks.scale import corpus, elsewhere
from benchmarks.scale.driver import measured
from safety_ray.core import dataset, resume

_ROWS_PER_TASK = 1 << 16


def run(rows: int, folder: str) -> dict[str, float]:
    """Measure a source of `rows` ids."""
    elsewhere.call(_write, f"{folder}/in", rows, corpus.ROWS_PER_FILE)
    elsewhere.call(_write, f"{folder}/done", rows // 2, _ROWS_PER_TASK)
    with measured() as values:
        written = resume.load(f"{folder}/done", "id")
        assert written is not None
        left = dataset.stream(dataset.files(f"{folder}/in")).map_batches(
            lambda batch: resume.unwritten(batch, "id", written.get()),
            batch_format="pyarrow",
        )
        assert left.count() == rows - rows // 2
        size = ray.remote(lambda: written.get().high.nbytes + written.get().low.nbytes)
        values["store_mb"] = ray.get(size.remote()) / 2**20
    return values


def _write(folder: str, rows: int, per_file: int) -> None:
    for number, (first, end) in enumerate(corpus.ranges(rows, per_file)):
        dataset.write_table(pa.table({"id": corpus.unique(first, end)}), f"{folder}/{number:05}.parquet")
