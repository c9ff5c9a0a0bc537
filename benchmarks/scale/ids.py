"""Ingest: find documents whose id occurs again, and move them to `rejected/`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmarks.scale import corpus, elsewhere
from benchmarks.scale.driver import measured
from safety_ray.core import dataset, row_files
from safety_ray.ingest import unique_ids

_SOURCES = [f"crawl/{number:05}.warc.gz" for number in range(1000)]


def run(rows: int, folder: str) -> dict[str, float]:
    """Measure `rows` stored documents."""
    from jobs.ingest import reject_repeated_ids

    elsewhere.call(_write, rows, folder)
    with measured() as values:
        reject_repeated_ids(unique_ids.stored_files(folder), _SOURCES)
    counts = dataset.stored(folder)
    expected = rows // corpus.REPEATED
    assert (counts.rows_out, counts.rejected) == (rows - expected, expected)
    return values


def _write(rows: int, folder: str) -> None:
    for number, (first, end) in enumerate(corpus.ranges(rows)):
        name = row_files.name_of(f"t{number:05}", end - first, 0)
        dataset.write_table(_documents(first, end), f"{folder}/data/{name}")


def _documents(first: int, end: int) -> pa.Table:
    numbers = np.arange(first, end)
    files = pa.DictionaryArray.from_arrays(pa.array((numbers % len(_SOURCES)).astype(np.int32)), _SOURCES)
    return pa.table(
        {
            "id": corpus.repeating(first, end),
            "source_file": files.cast(pa.string()),
            "source_position": numbers // len(_SOURCES),
            "rejected_reason": pa.nulls(end - first, pa.string()),
        }
    )
