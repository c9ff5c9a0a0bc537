"""Score: find texts that occur again, and the rows that take the score of another row."""

from __future__ import annotations

import pyarrow as pa
import ray

from benchmarks.scale import corpus, elsewhere
from benchmarks.scale.driver import measured
from safety_ray.core import dataset
from safety_ray.core.records import DOCUMENT


def run(rows: int, folder: str) -> dict[str, float]:
    """Measure `rows` documents whose texts have 19 characters."""
    from jobs.score import find_duplicates

    elsewhere.call(_write, rows, folder)
    with measured() as values:
        shared, copies = find_duplicates(dataset.read(folder, DOCUMENT), rows, len(dataset.files(folder)))
        size = ray.remote(lambda: sum(array.nbytes for array in _arrays(shared.get())))
        values["store_mb"] = ray.get(size.remote()) / 2**20
    assert copies == rows // corpus.REPEATED
    return values


def _write(rows: int, folder: str) -> None:
    for number, (first, end) in enumerate(corpus.ranges(rows)):
        table = pa.table({"id": corpus.unique(first, end), "text": corpus.repeating(first, end)})
        dataset.write_table(table, f"{folder}/{number:05}.parquet")


def _arrays(found: object) -> list[object]:
    from safety_ray.classifier.deduplication import Duplicates

    assert isinstance(found, Duplicates)
    sets = [half for part in (found.keys, found.owners) for half in (part.high, part.low)]
    return [*sets, found.owner_high, found.owner_low, found.by_owner]
